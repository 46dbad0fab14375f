"""Trains the stages of a tiny line: a base, experts that start from the base, and a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from optmerge.bench import records
from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.training import runner
from optmerge.bench.training.aligning import Aligning, BothViews, take_over
from optmerge.bench.training.conversations import trained_tasks
from optmerge.bench.training.input_directions import fix_to_input_directions
from optmerge.bench.training.learning import fit, prepared
from optmerge.bench.training.packing import ConversationBatch, Conversations
from optmerge.bench.training.patch_probe import SheetBatch, Sheets
from optmerge.bench.training.runner import StageFiles
from optmerge.bench.training.stages import BASE, LineStage, Regime, stages_of
from optmerge.errors import InputError

SIZE = TinySize()


@dataclass(frozen=True)
class _Training:
    """A training of a line.

    Args:
        line: name of the line.
        out: folder of the training.
        stages: all stages of the line, in the order in which they are trained.
        base: folder of the base.
        teacher: folder of the teacher; None for the one that a stage names.
        seed: seed of the training.
        size: shape of the models.
    """

    line: str
    out: Path
    stages: Mapping[str, LineStage]
    base: Path
    teacher: Path | None
    seed: int
    size: TinySize


def train(
    line: str,
    out: Path,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    regime: Regime = "gentle",
    base: Path | None = None,
    teacher: Path | None = None,
    stages: Mapping[str, LineStage] | None = None,
    size: TinySize = SIZE,
    threads: int = 2,
) -> records.Record:
    """Train the stages of a line into `out/STAGE`; unfinished work and learning curves lie in `out/work`.

    A finished stage is passed over, an unfinished one goes on from its last checkpoint. The same seed, thread
    count, machine type and library versions give the same weights, whether the training was killed or not.

    Args:
        line: name of a line whose models are trained here, such as `full` or `lora`.
        out: a new folder, or one that an interrupted training left.
        seed: seed of the initial weights and of all data; some stages add to it.
        only: stages to train, by name, each with its earlier passes; all of them if empty.
        regime: how the experts are trained (see `stages_of`).
        base: folder of a base that is already trained, for another set of experts (without a mixture, unless
            `only` names it); `out/base` by default.
        teacher: folder of the model whose language model is taken over; by default the stage that the line
            names, in the folder of its line beside `out`.
        stages: other stages than the line's own.
        size: shape of the models.
        threads: processor threads; the weights depend on their number.

    Raises:
        InputError: the line, the regime or a stage is unknown, a stage comes before the `base` that is given,
            or there is no teacher.
        CheckpointError: base or teacher is no model, or one of another line.
    """
    tiny_models.family_of(line)
    own = stages or stages_of(line, regime)
    asked = [name for name, stage in own.items() if stage.pass_of in only and name not in only]
    wanted = runner.chosen(own, [*only, *asked])
    if base:
        wanted = _after_the_base(wanted, only)
        tiny_models.check(base, line)
    training = _Training(line, out, own, base or out / BASE, teacher, seed, size)
    _check_teacher(wanted, training)
    config: dict[str, Any] = {"size": asdict(size), "regime": regime}
    if base:
        config["base"] = records.weights_hash(base)
    return runner.train_stages(
        wanted,
        lambda name, stage: _train(name, stage, training),
        out,
        kind=f"{line}/train",
        place=lambda name: out / name,
        config=config,
        seed=seed,
        threads=threads,
        settings=LineStage.recorded,
    )


def _after_the_base(stages: Mapping[str, LineStage], only: Sequence[str]) -> dict[str, LineStage]:
    """The experts and, if it was asked for, the mixture.

    Raises:
        InputError: a stage of the base was asked for.
    """
    for name in only:
        if stages[name].role == "base":
            raise InputError(
                f"stage {name!r} comes before the base that --base gives",
                where="stage",
                hint="leave one of the two out",
            )
    return {name: stage for name, stage in stages.items() if only or stage.role == "expert"}


def _teacher(stage: LineStage, training: _Training) -> Path:
    """Folder of the model that a stage takes its language model from."""
    assert stage.teacher is not None
    return training.teacher or training.out.parent.joinpath(*stage.teacher)


def _check_teacher(stages: Mapping[str, LineStage], training: _Training) -> None:
    """Refuse a training that would come to a stage without its teacher.

    Raises:
        InputError: there is no teacher.
        CheckpointError: it is a model of another line.
    """
    for name, stage in stages.items():
        if stage.teacher is None or StageFiles(training.out, name).note.is_file():
            continue
        line, folder = stage.teacher[0], _teacher(stage, training)
        if not folder.is_dir():
            raise InputError(
                f"the {training.line} line takes over the language model of the {line} line",
                where=folder,
                hint=f"train `--line {line}` first, or say with --teacher where it is",
            )
        tiny_models.check(folder, line)


def _train(name: str, stage: LineStage, training: _Training) -> None:
    """Train one stage, from its beginning or its last checkpoint to its finished folder."""
    from optmerge.bench.training.curve import Curve

    settings, seed = stage.settings, training.seed + stage.seed
    torch.manual_seed(seed)  # an adapter's first weights are drawn, too
    model, processor = _start(name, stage, training)
    files, count = StageFiles(training.out, name), settings.steps * settings.batch
    rows: Any = Sheets(count, seed=seed)
    batches: Any = SheetBatch(processor)
    if stage.curriculum is not None:
        rows = Conversations(stage.curriculum, count, seed=seed)
        batches = ConversationBatch(processor)
    if stage.teacher is not None:
        teacher, its_processor = tiny_models.load(stage.teacher[0], _teacher(stage, training))
        take_over(model, teacher)
        learner, batches = Aligning(model, teacher), BothViews(processor, its_processor)
    else:
        learner = prepared(model, settings, processor.merge**2)
    if settings.aimed:
        starts = range(0, settings.aimed, settings.batch)
        fix_to_input_directions(
            learner, (batches([rows[row] for row in range(at, at + settings.batch)]) for at in starts)
        )
    curve = Curve(files.curve, processor, _asked(stage), every=settings.look_every)
    fit(learner, rows, batches, settings, files.run, seed=seed, callbacks=[curve])
    if settings.part == "adapter":
        runner.save_adapter(learner, training.out / name, BASE)
    else:
        tiny_models.save(model, processor, training.out / name)


def _asked(stage: LineStage) -> Mapping[str, Any]:
    """The tasks whose validation questions the learning curve asks: an expert's own, or all of them."""
    tasks = trained_tasks()
    if stage.role == "expert" and stage.curriculum is not None:
        return {name: tasks[name] for name in stage.curriculum.shares if name in tasks}
    return tasks


def _start(name: str, stage: LineStage, training: _Training) -> tuple[Any, Processor]:
    """The model a stage starts from, as it was written: that of an earlier pass, the base, or a new one."""
    earlier = _earlier_passes(name, stage, training)
    if earlier and stage.settings.part == "adapter":
        model, processor = tiny_models.load(training.line, training.base)
        return _trainable(model, earlier[-1]), processor
    if earlier:
        return tiny_models.load(training.line, earlier[-1])
    if stage.role != "base":
        return tiny_models.load(training.line, training.base)
    processor = tiny_models.processor(training.line, training.size)
    return tiny_models.build(processor, training.size, seed=training.seed + stage.seed), processor


def _earlier_passes(name: str, stage: LineStage, training: _Training) -> list[Path]:
    """Folders of the earlier stages of the same role, as far as they are there; an expert has none."""
    names = list(training.stages)
    before = names[: names.index(name)] if stage.role != "expert" else []
    same_role = [training.out / each for each in before if training.stages[each].role == stage.role]
    return [folder for folder in same_role if folder.is_dir()]


def _trainable(model: Any, adapter: Path) -> Any:
    """The model with an adapter on it that goes on training."""
    from peft import PeftModel

    learner = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    # The Trainer's checkpoints compare the base's vocabulary; a relative path would be looked for on the hub.
    learner.peft_config["default"].base_model_name_or_path = model.name_or_path
    return learner
