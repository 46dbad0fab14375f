"""The demo: composes the experts, asks each of them and the result about one clip, writes the page."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optmerge.bench import records
from optmerge.bench.lines import default_zoo
from optmerge.bench.modalities import clips, jobs
from optmerge.bench.modalities.demo import clip_files, page
from optmerge.bench.modalities.demo.story import CLIP, Exchange, Speaker, Story, questions
from optmerge.bench.modalities.describe import NAMES
from optmerge.bench.modalities.templates import ClipQuestion
from optmerge.bench.modalities.training import BASE
from optmerge.bench.modalities.world import MODALITIES, Modality
from optmerge.checkpoints.output_files import disk_errors
from optmerge.engine.merge import Options
from optmerge.evaluate.answering import WORKED_TOKENS
from optmerge.omni import ask
from optmerge.omni.compose import Composed, compose
from optmerge.recipe import override, parse_recipe

MERGED, PAGE = "merged", "index.html"
"""What the demo writes beside the clip's files."""
METHOD: Mapping[str, Any] = {"name": "tsv", "scale": 1.0}
"""The merge that keeps most of the shipped experts (docs/omni.md), at the scale chosen on validation."""


def run(
    out: Path,
    *,
    zoo: Path | None = None,
    method: str | Mapping[str, Any] = METHOD,
    settings: Sequence[str] = (),
    clip: int = CLIP,
) -> Story:
    """Composes the three experts, asks everyone about a test clip, and writes `index.html`.

    Args:
        out: gets the page, the clip's files and `merged`; an earlier demo's are replaced.
        zoo: with base, start and experts, as training leaves them; the shipped one by default.
        method: as a recipe has it; the benchmark's best by default.
        settings: `key=value` changes of the recipe.
        clip: number in the test split.

    Raises:
        CheckpointError: the zoo lacks a model.
        InputError: as `compose`.
        RunError: the disk is full or failed.
    """
    zoo = zoo or default_zoo() / "omni"
    weights = jobs.hashes(zoo)
    started = time.perf_counter()
    name, done = _composed(zoo, out / MERGED, method, settings)
    seconds = time.perf_counter() - started
    content = clips.content("test", clip)
    made = clips.make(content)
    with disk_errors(out):
        items = clip_files.write(made, out)
    merged = done.adapter or done.path
    models = {zoo / each: Speaker(f"{NAMES[each]} expert", (each,)) for each in MODALITIES}
    models[merged] = Speaker(MERGED, MODALITIES)
    asked = questions(content)
    said = [_answers(folder, speaker, asked, items) for folder, speaker in models.items()]
    story = Story(
        number=clip,
        content=content,
        clip=made,
        method=name,
        scale=_scale(done),
        seconds=seconds,
        merged=merged.relative_to(out).as_posix(),
        speakers=tuple(models.values()),
        exchanges=tuple(map(Exchange, asked, zip(*said, strict=True))),
        weights={**weights, MERGED: records.weights_hash(merged)},
        versions=records.versions(),
    )
    with disk_errors(out):
        (out / PAGE).write_text(page.html(story), "utf-8")
    return story


def _composed(
    zoo: Path, out: Path, method: str | Mapping[str, Any], settings: Sequence[str]
) -> tuple[str, Composed]:
    """The method's name, which a setting may change, and what was composed."""
    experts = [{"model": str(zoo / each), "name": each} for each in MODALITIES]
    recipe = parse_recipe(override({"base": str(zoo / BASE), "experts": experts, "method": method}, settings))
    own_towers: dict[str, str] = {modality: modality for modality in MODALITIES}
    with warnings.catch_warnings():  # answers show what they would say
        warnings.simplefilter("ignore")
        return recipe.method.name, compose(recipe, out, towers=own_towers, options=Options(mode="overwrite"))


def _answers(
    folder: Path, speaker: Speaker, asked: Sequence[ClipQuestion], items: Mapping[Modality, Path]
) -> list[str]:
    """What a model says to each question, as `optmerge omni ask` would have it."""
    given: dict[str, list[Path]] = {
        modality: [path] for modality, path in items.items() if modality in speaker.takes
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by an older name
        model = ask.load(folder)
    return [ask.answer(model, each.text, given, longest=WORKED_TOKENS) for each in asked]


def _scale(done: Composed) -> float | None:
    if done.result is None:
        return None
    use = done.result.plan.methods[0]
    return use.scale if use is not None and isinstance(use.scale, float) else None
