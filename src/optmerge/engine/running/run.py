"""Running a plan: tensors stream from the inputs through their methods into the output folder."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optmerge.engine.output.adapter import write_merged_adapter
from optmerge.engine.output.dense import Progress, write_merged_checkpoint
from optmerge.engine.output.folder import Mode, OutputFolder, finished_fingerprint
from optmerge.engine.output.provenance import write_provenance
from optmerge.engine.output.side_files import write_side_files
from optmerge.engine.plan import Plan, make_plan
from optmerge.engine.planning.cost import SLICE_ELEMENTS
from optmerge.engine.planning.inputs import Inputs
from optmerge.engine.planning.opening import open_inputs
from optmerge.engine.running.budget import Budget, fit_memory
from optmerge.engine.running.compute import run_surveys
from optmerge.engine.running.pool import Pool, keep_freed_memory
from optmerge.engine.running.sources import Sources
from optmerge.errors import CheckpointError, InputError, MergeWarning, OutputError, RecipeError
from optmerge.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class Result:
    """What a merge did.

    Args:
        path: the output folder.
        plan: what was decided.
        seconds: wall time of the run.
        warnings: of the plan and of the methods.
        truncation: relative error of a truncated adapter, ‖ΔM‖/‖M‖ over all tensors; None for dense output.
        resumed_tensors: how many tensors an earlier run had already written.
    """

    path: Path
    plan: Plan
    seconds: float
    warnings: tuple[str, ...]
    truncation: float | None = None
    resumed_tensors: int = 0


def merge(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    mode: Mode = "new",
    device: str = "cpu",
    memory: str | int | None = None,
    content_hashes: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Merges experts into one checkpoint, or one adapter.

    Args:
        recipe: a `Recipe`, or plain data in its form: `{"base": …, "experts": […], "method": …}`.
        out: the output folder.
        mode: `new` wants an empty folder; `resume` continues an interrupted merge of the same inputs and
            recipe; `overwrite` replaces an earlier merge once this one is complete.
        device: `cpu` or `cuda`, where tensors are merged.
        memory: budget for tensors in memory, as in `2GiB`; refused beforehand if it can't be kept.
        content_hashes: read every input once more and record its SHA-256 in the provenance, which otherwise
            knows headers and sizes.
        progress: called after each tensor.

    Returns:
        What was done.

    Raises:
        InputError: the input is wrong; nothing is left in `out`.
        RunError: the disk is full or failed; `mode="resume"` continues.
    """
    recipe = parse_recipe(recipe)
    inputs = open_inputs(recipe)
    decided = make_plan(recipe, inputs)
    return execute(
        decided,
        inputs,
        Path(out),
        mode=mode,
        device=device,
        memory=memory,
        content_hashes=content_hashes,
        progress=progress,
    )


def execute(
    plan: Plan,
    inputs: Inputs,
    out: Path,
    *,
    mode: Mode = "new",
    device: str = "cpu",
    memory: str | int | None = None,
    content_hashes: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Runs a plan on the inputs it was made of; arguments and errors as `merge`."""
    check_device(device)
    budget = fit_memory(plan, memory)
    _check_output_is_no_input(inputs, out)
    fingerprint = f"{plan.fingerprint}-{device.partition(':')[0]}"
    if mode == "resume" and finished_fingerprint(out) == fingerprint:
        return Result(out, plan, 0.0, plan.warnings, resumed_tensors=len(plan.tensors))
    started = time.monotonic()
    truncation = None
    ingredients = {**plan.ingredients, "device": device.partition(":")[0]}
    with OutputFolder(out, fingerprint, ingredients, mode) as folder, _collected_warnings() as found:
        try:
            if not folder.complete:
                truncation = _write(plan, inputs, folder, device, budget, content_hashes, progress)
        except InputError:
            folder.discard()
            raise
        folder.publish()
    return Result(
        path=out,
        plan=plan,
        seconds=time.monotonic() - started,
        warnings=tuple(dict.fromkeys((*plan.warnings, *(str(each.message) for each in found)))),
        truncation=truncation,
        resumed_tensors=len(folder.written),
    )


def plan(recipe: Recipe | Mapping[str, Any]) -> Plan:
    """What a merge would do to every tensor, and what it would cost; reads headers only."""
    return make_plan(recipe)


def check_device(device: str) -> None:
    """Refuses a device that isn't there.

    Raises:
        RecipeError: with what there is.
    """
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise RecipeError("unknown device", where="--device", got=device, expected="cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "no CUDA device is available", where="--device", got=device, hint="use --device cpu"
        )
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if index and int(index) >= there:
        expected = f"{kind}:0 to {kind}:{there - 1}" if there > 1 else kind
        raise RecipeError("no such device", where="--device", got=device, expected=expected)


def _check_output_is_no_input(inputs: Inputs, out: Path) -> None:
    folder = Path(os.path.realpath(out))
    for path in (inputs.base.checkpoint.path, *(expert.path for expert in inputs.experts)):
        place = Path(os.path.realpath(path))
        if place == folder:
            raise OutputError("the output folder is an input", where=out, hint="choose another --out")
        if folder in place.parents:
            raise OutputError(
                "an input lies in the output folder", where=out, got=path, hint="choose another --out"
            )


def _write(
    plan: Plan,
    inputs: Inputs,
    folder: OutputFolder,
    device: str,
    budget: Budget,
    content_hashes: bool,
    progress: Progress | None,
) -> float | None:
    """Fills the staging folder; returns the truncation error of an adapter."""
    write_side_files(plan, inputs, folder.staging)
    truncation = None
    keep_freed_memory()
    with Sources(inputs, device) as sources, Pool(device=sources.device) as pool:
        _check_aliases(plan, sources)
        surveys = run_surveys(plan, sources, pool, budget.slice_elements)
        if plan.recipe.output.format == "adapter":
            truncation = write_merged_adapter(plan, sources, surveys, budget, folder.staging, progress)
        else:
            write_merged_checkpoint(plan, sources, surveys, pool, budget, folder, progress)
    inputs.check_unchanged()
    # No warnings of methods: a resumed run doesn't repeat those of tensors already written.
    details: dict[str, Any] = {"fingerprint": folder.fingerprint, "device": device, "truncation": truncation}
    if content_hashes:
        details["content_hashes"] = inputs.content_hashes()
    write_provenance(plan, inputs, folder.staging, details)
    return truncation


def _check_aliases(plan: Plan, sources: Sources) -> None:
    """What the config ties and the base stores twice must be one value, all of it."""
    for tensor in plan.tensors:
        if tensor.action == "alias" and not sources.same_everywhere(
            tensor.name, tensor.source, SLICE_ELEMENTS
        ):
            raise CheckpointError(
                f"{tensor.name} and {tensor.source} differ, though the config ties them",
                where=sources.inputs.base.checkpoint.path,
                hint="set tie_word_embeddings: false in the base's config.json, or save the base again",
            )


@contextmanager
def _collected_warnings() -> Any:
    """Warnings of methods, once each, instead of on the terminal."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", MergeWarning)
        yield found
