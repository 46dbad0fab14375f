"""Trains the modality benchmark's models: a base that only reads, towers, then experts that join the two."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from optmerge.bench import records
from optmerge.bench.modalities import clips, looks, models, words
from optmerge.bench.modalities.models import OmniSize
from optmerge.bench.modalities.readings import Contents, Readings, TowerProbe
from optmerge.bench.modalities.talk_batches import TalkBatch
from optmerge.bench.modalities.talks import TalkCurriculum, Talks
from optmerge.bench.modalities.world import MODALITIES, Modality
from optmerge.bench.training import runner
from optmerge.bench.training.learning import Stage, fit
from optmerge.bench.training.runner import StageFiles
from optmerge.errors import InputError
from optmerge.omni import OmniProcessor

READING, BASE, START, TOWER = "reading", "base", "start", "-tower"
"""Names of the language model's stages and of the model with all towers; ending of the towers' stages."""
SIZE = OmniSize()
LINEAR = r"language_model\..*\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
"""Regular expression of the matrices that get an expert's adapter."""

_WORDS = Stage(pictures=64_000, learning_rate=2e-3, matrix_rate=0.01, batch=16, look_every=1000)
_TOWER = Stage(pictures=96_000, learning_rate=3e-3, matrix_rate=0.02, batch=32)
# The projector learns as fast as any, the language model's adapter slowly: so merges keep more.
_EXPERT = Stage(
    pictures=24_000,
    learning_rate=1e-3,
    matrix_rate=0.003,
    sight_rate=3.3,
    weight_decay=0.3,
    batch=16,
    rank=32,
    look_every=250,
)
STAGES: Mapping[str, Stage] = {
    READING: _WORDS,
    BASE: replace(_WORDS, pictures=40_000, learning_rate=1e-3, matrix_rate=0.005),
    **{f"{modality}{TOWER}": _TOWER for modality in MODALITIES},
    **dict.fromkeys(MODALITIES, _EXPERT),
    "image": replace(_EXPERT, pictures=16_000),
}
"""Stage → settings, in the order in which they are trained; `pictures` counts clips."""


def train(
    out: Path,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    stages: Mapping[str, Stage] = STAGES,
    size: OmniSize = SIZE,
    threads: int = 2,
) -> records.Record:
    """Train a base into `out/base`, towers, and an expert for each modality into `out/MODALITY`.

    The base reads descriptions of one part of a clip at a time, then of all parts. An expert is an adapter on
    `out/start`, which joins base and towers. Unfinished work, learning curves and the towers lie in
    `out/work`. A finished stage is passed over, an unfinished one goes on from its last checkpoint. The same
    seed, thread count, machine type and library versions give the same weights, whether the training was
    killed or not. Base and towers don't need each other, so several calls may train one stage each at the
    same time; an expert needs all of them.

    Args:
        out: a new folder, or one that an interrupted training left.
        seed: seed of the initial weights and of all data.
        only: stages to train, by name; all of them if empty.
        stages: name → settings, in the order in which they are trained.
        size: shape of the models.
        threads: processor threads; the weights depend on their number.

    Raises:
        InputError: a stage is unknown, or a stage that an expert starts from isn't there.
    """
    return runner.train_stages(
        runner.chosen(stages, only),
        lambda name, stage: _train(name, stage, out, seed=seed, size=size),
        out,
        kind="omni/train",
        place=lambda name: _place(out, name),
        config={"size": asdict(size), "clips": clips.VERSION},
        seed=seed,
        threads=threads,
    )


def _place(out: Path, name: str) -> Path:
    """Folder of a stage's model."""
    return out / "work" / name if name == READING or name.endswith(TOWER) else out / name


def _train(name: str, stage: Stage, out: Path, *, seed: int, size: OmniSize) -> None:
    """Train one stage, from its beginning or its last checkpoint to its finished folder."""
    train_one = _language if name in (READING, BASE) else _tower if name.endswith(TOWER) else _expert
    torch.manual_seed(seed)
    train_one(name, stage, out, seed, size)


def _language(name: str, stage: Stage, out: Path, seed: int, size: OmniSize) -> None:
    tokenizer = words.tokenizer()
    model = models.language(size, tokenizer, seed=seed)
    if name == BASE and (before := _place(out, READING)).is_dir():
        model, _ = models.load(before)
    # Repeating a description teaches to find things in a text.
    curriculum = TalkCurriculum(most=1, captions=1.0, closeups=6) if name == READING else TalkCurriculum()
    rows = Talks(curriculum, stage.steps * stage.batch, seed=seed)

    def look(model: Any) -> looks.LookScores:
        return looks.answers(model, tokenizer, told=MODALITIES)

    _fit(model, rows, TalkBatch(tokenizer), stage, out, name, seed, look)
    models.save(model, tokenizer, _place(out, name))


def _tower(name: str, stage: Stage, out: Path, seed: int, size: OmniSize) -> None:
    modality = cast(Modality, name.removesuffix(TOWER))
    tokenizer = words.tokenizer()
    config = models.tower_config(modality, size, tokenizer)
    probe = TowerProbe(models.tower(config, size, seed=seed), modality, size.width)
    batches = Readings(OmniProcessor(tokenizer, {modality: config}), modality)

    def look(model: Any) -> looks.LookScores:
        return looks.readings(model, batches)

    rows = Contents(stage.steps * stage.batch, seed=seed)
    _fit(probe, rows, batches, stage, out, name, seed, look)
    place = _place(out, name)
    place.mkdir(parents=True, exist_ok=True)
    weights = copy.deepcopy(probe.tower).to(torch.bfloat16).state_dict()
    save_file(weights, place / "model.safetensors")


def _expert(name: str, stage: Stage, out: Path, seed: int, size: OmniSize) -> None:
    from peft import LoraConfig, get_peft_model

    modality = cast(Modality, name)
    if not (out / START).is_dir():
        _assemble(out, size, out / "work" / f"{START}-{name}")
    model, processor = models.load(out / START)
    torch.manual_seed(seed)  # for the adapter's first weights
    # The projector's whole name: the other towers' projectors stay as they are.
    settings = LoraConfig(
        r=stage.rank,
        lora_alpha=stage.rank,
        target_modules=LINEAR,
        modules_to_save=[f"towers.{modality}.projector"],
    )
    learner = get_peft_model(model, settings)

    def look(model: Any) -> looks.LookScores:
        return looks.answers(model.base_model.model, processor, shown=modality)

    rows = Talks(TalkCurriculum(own=modality), stage.steps * stage.batch, seed=seed)
    _fit(learner, rows, TalkBatch(processor.tokenizer, processor), stage, out, name, seed, look)
    runner.save_adapter(learner, out / name, START)


def _assemble(out: Path, size: OmniSize, partial: Path) -> None:
    """Write the model that all experts start from: base and towers as they were written.

    Args:
        out: folder of the training.
        size: shape of the models.
        partial: folder of the model until it is complete.

    Raises:
        InputError: the base or a tower isn't there.
    """
    for name in (BASE, *(f"{modality}{TOWER}" for modality in MODALITIES)):
        if not (_place(out, name) / "model.safetensors").is_file():
            raise InputError(
                "an expert starts from a base and all towers",
                where=out,
                got=f"no {name}",
                hint=f"train it first, with --stage {name}",
            )
    language, tokenizer = models.load(out / BASE)
    towers = {}
    for modality in MODALITIES:
        towers[modality] = models.tower(models.tower_config(modality, size, tokenizer), size, seed=0)
        weights = load_file(_place(out, f"{modality}{TOWER}") / "model.safetensors")
        towers[modality].load_state_dict(weights)
    models.save(models.joined(language, towers), tokenizer, partial)
    try:
        partial.rename(out / START)
    except OSError:  # another expert's training has written the same model meanwhile
        shutil.rmtree(partial)


def _fit(
    model: Any,
    rows: Any,
    batches: Any,
    stage: Stage,
    out: Path,
    name: str,
    seed: int,
    look: Callable[[Any], looks.LookScores],
) -> None:
    """Train one model, with its learning curve."""
    files = StageFiles(out, name)
    curve = looks.Looks(files.curve, look, every=stage.look_every)
    fit(model, rows, batches, stage, files.run, seed=seed, callbacks=[curve])
