"""The lines from nothing to finished: sight, a base, five experts that start from it, and their mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from optmerge.bench import records
from optmerge.bench.lines.tiny import checkpoint
from optmerge.bench.lines.tiny.family import Processor, Size
from optmerge.bench.training import conversations, staging
from optmerge.bench.training.aiming import aim
from optmerge.bench.training.aligning import Aligning, BothViews, take_over
from optmerge.bench.training.conversations import SHEETS, Diet
from optmerge.bench.training.learning import Stage, fit, prepared
from optmerge.bench.training.packing import Conversations, Pack
from optmerge.bench.training.seeing import SheetBatch, Sheets
from optmerge.bench.training.staging import Traces
from optmerge.errors import InputError

SIGHT, READING, FINDING, RELATING = "sight", "reading", "finding", "relating"
ALIGNING, ANSWERING, BASE, MIXTURE = "aligning", "answering", "base", "mixture"
SIZE = Size()
EXPERTS = tuple(conversations.trained())

_SIGHT = Stage(
    pictures=96_000, learning_rate=3e-3, matrix_rate=0.02, part="sight", keep_every=0, look_every=0
)
_READING = Stage(pictures=144_000, learning_rate=3e-3, matrix_rate=0.02, sight_rate=0.1)
_FINDING = Stage(pictures=32_000, learning_rate=3e-3, matrix_rate=0.02, sight_rate=0.1, look_every=0)
_RELATING = replace(_FINDING, pictures=64_000)
_ANSWERING = Stage(pictures=128_000, learning_rate=3e-3, matrix_rate=0.02, sight_rate=0.1)
_BASE = replace(_ANSWERING, pictures=48_000)
_FULL = Stage(pictures=48_000, learning_rate=1e-3, batch=32, pull=1.5, part="layers")
_LORA = Stage(pictures=56_000, learning_rate=2e-3, batch=32, pull=1.0, part="adapter", rank=96, aimed=256)
STAGES: Mapping[str, Mapping[str, Stage]] = {
    "full": {
        SIGHT: _SIGHT,
        ALIGNING: replace(_SIGHT, pictures=64_000),
        ANSWERING: replace(_ANSWERING, pictures=96_000),
        BASE: _BASE,
        **dict.fromkeys(EXPERTS, _FULL),
        "vqa": replace(_FULL, pictures=16_000, learning_rate=5e-4),
        "geometry": replace(_FULL, pictures=32_000),
        "chart": replace(_FULL, pictures=96_000),
        "ocr": replace(_FULL, pull=2.0),
        "grounding": replace(_FULL, pull=2.0),
        MIXTURE: replace(_FULL, pictures=128_000, matrix_rate=0.01, pull=0.0),
    },
    "lora": {
        SIGHT: _SIGHT,
        READING: _READING,
        FINDING: _FINDING,
        RELATING: _RELATING,
        ANSWERING: _ANSWERING,
        BASE: replace(_BASE, pictures=72_000),
        **dict.fromkeys(EXPERTS, _LORA),
        "vqa": replace(_LORA, pictures=20_000, learning_rate=1e-3),
        "chart": replace(_LORA, pictures=160_000, pull=0.6),
        "ocr": replace(_LORA, pictures=64_000, pull=1.1),
        "grounding": replace(_LORA, pictures=24_000, pull=1.5),
        MIXTURE: replace(_LORA, pictures=208_000, rank=64, aimed=0, matrix_rate=0.01, pull=0.0),
    },
}
"""Line → stage → settings, in the order they are trained."""

QUESTIONS: Mapping[str, float] = MappingProxyType({"full": 1.0, "lora": 0.5})
"""Line → chance that it is asked a question of a known type before all types are asked."""
BASE_SHARES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "full": {SHEETS: 2.6, "vqa": 0.15, "geometry": 0.7, "chart": 0.3, "ocr": 0.1, "grounding": 0.9},
        "lora": {SHEETS: 2.6, "vqa": 0.15, "geometry": 0.7, "chart": 0.3, "ocr": 0.17, "grounding": 0.9},
    }
)
"""Line → what its base learns from: such shares that every expert has 20 points to add."""
_BEFORE_EXPERTS = (SIGHT, READING, FINDING, RELATING, ALIGNING, ANSWERING, BASE)


def train(
    line: str,
    out: Path,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    base: Path | None = None,
    teacher: Path | None = None,
    stages: Mapping[str, Stage] | None = None,
    size: Size = SIZE,
    threads: int = 2,
) -> records.Record:
    """Train the stages of a line into `out/STAGE`; unfinished work and learning curves lie in `out/work`.

    A finished stage is passed over, an unfinished one goes on from its last checkpoint. The same seed, thread
    count, machine type and library versions give the same weights, killed in between or not.

    Args:
        line: `full` or `lora`.
        out: a new folder, or one that an earlier call was writing.
        seed: of the initial weights and of everything drawn.
        only: stages to train, by name; all of them if empty.
        base: a base that is already trained, for another set of experts (without a mixture, unless `only`
            names it); otherwise `out/base`.
        teacher: the lora line after answering, whose language model the full line takes over; otherwise the
            one in the folder `lora` beside `out`.
        stages: other settings than the line's own.
        size: shape of the model.
        threads: processor threads; part of what the weights depend on.

    Raises:
        InputError: a line or a stage is unknown, a stage comes before the `base` that is given, or the full
            line has no teacher.
        CheckpointError: base or teacher is none, or of another line.
    """
    checkpoint.family_of(line)
    stages = staging.chosen(stages or STAGES[line], only)
    if base:
        for name in only:
            if name in _BEFORE_EXPERTS:
                raise InputError(
                    f"stage {name!r} comes before the base that --base gives",
                    where="stage",
                    hint="leave one of the two out",
                )
        checkpoint.check(base, line)
        stages = {name: stage for name, stage in stages.items() if name in EXPERTS or name in only}
    teacher = teacher or out.parent / "lora" / ANSWERING
    if ALIGNING in stages and not Traces(out, ALIGNING).note.is_file():
        if not teacher.is_dir():
            raise InputError(
                "the full line takes over the language model of the lora line",
                where=teacher,
                hint="train `--line lora` first, or say with --teacher where it is",
            )
        checkpoint.check(teacher, "lora")
    config = {"size": asdict(size), "questions": QUESTIONS[line], "base_shares": dict(BASE_SHARES[line])}
    if base:
        config["base"] = records.weights_hash(base)
    return staging.train(
        stages,
        lambda name, stage: _train(line, name, stage, out, base or out / BASE, teacher, seed=seed, size=size),
        out,
        kind=f"{line}/train",
        place=lambda name: out / name,
        config=config,
        seed=seed,
        threads=threads,
    )


def diet(line: str, name: str) -> Diet:
    """What a stage of a line learns from, after its sight."""
    if name == READING:
        return conversations.reading(QUESTIONS[line])
    if name == FINDING:
        return conversations.finding()
    if name == RELATING:
        return conversations.relating()
    if name in (ALIGNING, ANSWERING):
        return conversations.answering(QUESTIONS[line])
    if name == BASE:
        return conversations.base(BASE_SHARES[line])
    return conversations.mixture() if name == MIXTURE else conversations.expert(name)


def _train(
    line: str, name: str, stage: Stage, out: Path, base: Path, teacher: Path, *, seed: int, size: Size
) -> None:
    """One stage, from its beginning or its last checkpoint to its finished folder."""
    from optmerge.bench.training.curve import Curve

    model, processor = _start(line, name, base, out, size, seed)
    tasks = conversations.trained()
    watched = {name: tasks[name]} if name in tasks else tasks
    traces, count = Traces(out, name), stage.steps * stage.batch
    curve = Curve(traces.curve, processor, watched, every=stage.look_every)
    rows: Any = Sheets(count, seed=seed)
    batches: Any = SheetBatch(processor)
    if name != SIGHT:
        rows, batches = Conversations(diet(line, name), count, seed=seed), Pack(processor)
    if name == ALIGNING:
        other, its_processor = checkpoint.load(teacher)
        take_over(model, other)
        learner, batches = Aligning(model, other), BothViews(processor, its_processor)
    else:
        learner = prepared(model, stage, processor.merge**2)
    if stage.aimed:
        starts = range(0, stage.aimed, stage.batch)
        aim(learner, (batches([rows[row] for row in range(at, at + stage.batch)]) for at in starts))
    fit(learner, rows, batches, stage, traces.run, seed=seed, callbacks=[curve])
    if stage.part == "adapter":
        staging.save_adapter(learner, out / name, BASE)
    else:
        checkpoint.save(model, processor, out / name)


def _start(line: str, name: str, base: Path, out: Path, size: Size, seed: int) -> tuple[Any, Processor]:
    """The model a stage starts from: a new one, that of the stage before, or the base; as it was written."""
    torch.manual_seed(seed)  # an adapter's first weights are drawn too
    if name not in _BEFORE_EXPERTS:
        return checkpoint.load(base)
    before = [out / each for each in _BEFORE_EXPERTS[: _BEFORE_EXPERTS.index(name)] if (out / each).is_dir()]
    if before:
        return checkpoint.load(before[-1])
    processor = checkpoint.processor(line, size)
    return checkpoint.build(processor, size, seed=seed), processor
