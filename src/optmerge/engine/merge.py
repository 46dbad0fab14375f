"""The door of the engine: a recipe in, a checkpoint or an adapter out."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from optmerge._compiled import uncached
from optmerge.checkpoints.paths import require_regular_file
from optmerge.engine.changes import with_squares
from optmerge.engine.notebook import bar, in_notebook
from optmerge.engine.output.adapter import write_merged_adapter
from optmerge.engine.output.carried_files import write_side_files
from optmerge.engine.output.dense import write_merged_checkpoint
from optmerge.engine.output.folder import Mode, OutputFolder, check_usable, finished_fingerprint
from optmerge.engine.output.identities import Identities
from optmerge.engine.output.parts import Parts, write_parts
from optmerge.engine.output.places import remember_base
from optmerge.engine.output.provenance import content_hashes, with_recorded_changes, write_provenance
from optmerge.engine.plan import Action, Plan, Progress
from optmerge.engine.planning.ends import check_whole
from optmerge.engine.planning.inputs import Inputs
from optmerge.engine.planning.opening import open_inputs
from optmerge.engine.planning.planner import make_plan
from optmerge.engine.planning.request import check_device, check_recipe, parse_bytes
from optmerge.engine.running.budget import Budget, fit_memory
from optmerge.engine.running.compute import run_surveys
from optmerge.engine.running.measuring import measure_all
from optmerge.engine.running.pool import Pool, keep_freed_memory
from optmerge.engine.running.scales import caution_words, choose_scales, with_scales
from optmerge.engine.running.sources import Sources
from optmerge.errors import CheckpointError, InputError, MergeWarning, OutputError, RecipeError
from optmerge.recipe import BASE, Recipe, parse_recipe


@dataclass(frozen=True)
class Options:
    """How a merge is run. Neither `device`'s number nor `memory` changes a byte of the result.

    Args:
        mode: `new` wants an empty folder; `resume` continues an interrupted merge of the same inputs and
            recipe; `overwrite` replaces an earlier merge once this one is complete.
        device: `cpu`, `cuda` or `cuda:N`, where tensors are merged.
        memory: budget in bytes, or as in `2GiB`, for the anonymous memory of the whole process: the tensors,
            the interpreter and its libraries. A budget that can't be kept is refused before anything is
            written. None is no budget: one slice or one whole tensor a core.
        content_hashes: read every input once more and record its SHA-256 in the provenance, which otherwise
            knows headers and sizes.
    """

    mode: Mode = "new"
    device: str = "cpu"
    memory: str | int | None = None
    content_hashes: bool = False


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Result:
    """What a merge did.

    Args:
        path: the output folder.
        plan: what was decided, with what the experts changed, measured.
        seconds: wall time of the run.
        warnings: of the plan and of the methods.
        truncation: relative error of a truncated adapter, ‖ΔM‖/‖M‖ over all tensors; None for dense output.
        resumed_tensors: how many tensors an earlier run had already written.
        scales: for each of the plan's methods the scale that was chosen for it and why, as in the provenance;
            None where none was.
        parts: the experts' parts of a routed output, made in this run; None for other outputs.
    """

    path: Path
    plan: Plan
    seconds: float
    warnings: tuple[str, ...]
    truncation: float | None = None
    resumed_tensors: int = 0
    scales: tuple[Mapping[str, Any] | None, ...] = ()
    parts: Parts | None = None


Watch = Callable[[Plan], AbstractContextManager[Progress | None]]
"""Called with the plan before the run, which lies within what it gives; that value is told of each tensor."""


def silent(plan: Plan) -> AbstractContextManager[None]:
    """A `Watch` that shows nothing."""
    return nullcontext()


def plan(recipe: Recipe | Mapping[str, Any]) -> Plan:
    """What a merge would do to every tensor, and what it would cost: headers and a sample of each tensor.

    Args:
        recipe: a `Recipe`, or plain data in its form: `{"base": …, "experts": […], "method": …}`.

    Raises:
        InputError: anything that would stop the merge and that headers can show.
    """
    recipe = parse_recipe(recipe)
    check_recipe(recipe)
    return make_plan(recipe, open_inputs(recipe))


def merge(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    options: Options = DEFAULT_OPTIONS,
    watch: Watch | None = None,
    *,
    inputs: Inputs | None = None,
) -> Result:
    """Merges experts into one checkpoint, or one adapter.

    Args:
        recipe: as for `plan`.
        out: the output folder.
        options: how it is run.
        watch: shows the plan and the progress; None for a bar in a notebook and nothing elsewhere.
        inputs: the opened base and experts of a composition, which the recipe's references don't lead to.
            Whoever opens them calls `check_request` before; here it is called where they are None.

    Returns:
        What was done.

    Raises:
        InputError: the input is wrong; nothing is left in `out`.
        RunError: the disk is full or failed; `mode="resume"` continues.
    """
    recipe, out = parse_recipe(recipe), Path(out)
    if inputs is None:
        check_request(recipe, out, options)
        inputs = open_inputs(recipe)
    decided = make_plan(recipe, inputs)
    budget = fit_memory(decided, options.memory)
    check_output_is_no_input(out, (inputs.base.checkpoint.path, *(each.path for each in inputs.experts)))
    with (watch or (bar if in_notebook() else silent))(decided) as progress:
        return _run(decided, inputs, out, options, budget, progress)


def check_request(recipe: Recipe, out: Path, options: Options) -> None:
    """Refuses whatever no model could make right, before any is looked for or downloaded.

    Raises:
        InputError: the recipe, an option or the output folder can't be used.
    """
    check_recipe(recipe)
    check_options(out, options)


def check_options(out: Path, options: Options) -> None:
    """Refuses options, and an output folder that doesn't suit their mode.

    Raises:
        InputError: an option or the output folder can't be used.
    """
    if options.mode not in get_args(Mode):
        raise RecipeError("unknown mode", where="mode", got=options.mode, expected=", ".join(get_args(Mode)))
    check_device(options.device)
    if options.memory is not None:
        parse_bytes(options.memory, "--memory")
    # A finished merge isn't resumed but recognised, once there is a plan. OutputFolder looks again when it
    # makes the folder its own: others may have written there during a download.
    if options.mode != "resume" or finished_fingerprint(out) is None:
        check_usable(out, options.mode)


def check_output_is_no_input(out: Path, inputs: Iterable[Path]) -> None:
    """Refuses an output folder that is an input, or that an input lies in.

    Raises:
        OutputError: with the input.
    """
    folder = Path(os.path.realpath(out))
    for path in inputs:
        place = Path(os.path.realpath(path))
        if place == folder:
            raise OutputError("the output folder is an input", where=out, hint="choose another --out")
        if folder in place.parents:
            raise OutputError(
                "an input lies in the output folder", where=out, got=path, hint="choose another --out"
            )


def _run(
    plan: Plan, inputs: Inputs, out: Path, options: Options, budget: Budget, progress: Progress | None
) -> Result:
    """Runs a plan on the inputs it was made of."""
    kind = options.device.partition(":")[0]
    fingerprint = f"{plan.fingerprint}-{kind}"
    if options.mode == "resume" and finished_fingerprint(out) == fingerprint:
        plan = with_recorded_changes(plan, out)
        return Result(out, plan, 0.0, plan.warnings, resumed_tensors=len(plan.tensors))
    started = time.monotonic()
    written = _Written()
    ingredients = {**plan.ingredients, "device": kind}
    with OutputFolder(out, fingerprint, ingredients, options.mode) as folder, _collected_warnings() as found:
        try:
            if not folder.complete:
                written = _write(plan, inputs, folder, options, budget, progress)
        except InputError:
            folder.discard()
            raise
        folder.publish()
    remember_base(fingerprint, inputs.base.checkpoint.path)
    plan = with_recorded_changes(plan, out)
    return Result(
        path=out,
        plan=plan,
        seconds=time.monotonic() - started,
        warnings=tuple(
            dict.fromkeys(
                (
                    *plan.warnings,
                    *written.cautions,
                    *(str(each.message) for each in found),
                    *_uncached(),
                )
            )
        ),
        truncation=written.truncation,
        resumed_tensors=len(folder.written),
        scales=written.scales,
        parts=written.parts,
    )


@dataclass(frozen=True)
class _Written:
    """What is known once everything is written; nothing of a merge that an earlier run completed."""

    truncation: float | None = None
    scales: tuple[Mapping[str, Any] | None, ...] = ()
    parts: Parts | None = None

    @property
    def cautions(self) -> list[str]:
        """Why chosen scales are smaller than their rules say."""
        return [words for each in self.scales if each is not None and (words := caution_words(each))]


def _write(
    plan: Plan,
    inputs: Inputs,
    folder: OutputFolder,
    options: Options,
    budget: Budget,
    progress: Progress | None,
) -> _Written:
    """Fills the staging folder."""
    _check_ends(plan, inputs)
    write_side_files(plan, inputs, folder.staging)
    truncation = None
    keep_freed_memory()
    identities = Identities(plan, inputs, folder.digests)
    with (
        Sources(inputs, options.device, identities.digests) as sources,
        Pool(device=sources.device) as pool,
    ):
        surveys = run_surveys(plan, sources, pool, budget.slice_elements)
        scales = choose_scales(plan, sources, surveys, budget.whole_tensors, folder.scales)
        decided = with_scales(plan, scales)
        if plan.recipe.output.format == "adapter":
            truncation = write_merged_adapter(
                decided, sources, surveys, scales, budget, folder.staging, progress
            )
            squares = measure_all(plan, sources, pool)
        else:
            squares = write_merged_checkpoint(
                decided, sources, surveys, scales, pool, budget, folder, identities, progress
            )
        parts = write_parts(plan, sources, budget, folder.staging)
        found = identities.finish(sources, pool)
    _check_unchanged(inputs)
    # No warnings of methods: a resumed run doesn't repeat those of tensors already written.
    details: dict[str, Any] = {
        "fingerprint": folder.fingerprint,
        "device": options.device,
        "truncation": truncation,
    }
    if parts is not None:
        details["routed"] = parts.plain()
    hashes = {"content_hashes": content_hashes(inputs)} if options.content_hashes else {}
    measured = with_squares(plan, squares)
    write_provenance(measured, inputs, scales, folder.staging, found, details | hashes)
    return _Written(truncation, tuple(scales.plain(plan)), parts)


def _check_ends(plan: Plan, inputs: Inputs) -> None:
    """What planning took for one tensor by a sample is compared whole."""
    taken = [tensor.name for tensor in plan.tensors if tensor.action is Action.MERGE or tensor.source != BASE]
    check_whole(inputs, [re.compile(pattern) for pattern in plan.recipe.ignore], taken)


def _check_unchanged(inputs: Inputs) -> None:
    """Refuses what was made of files whose size or time of change isn't what it was when they were opened."""
    headers = dict(inputs.base.checkpoint.headers)
    for expert in inputs.experts:
        headers |= expert.headers
    for file, header in headers.items():
        status = require_regular_file(file)
        if (status.st_size, status.st_mtime_ns) != (header.file_bytes, header.modified_ns):
            raise CheckpointError(
                "the file changed while it was merged",
                where=file,
                hint="nothing may write to a checkpoint while it is read; start again",
            )


def _uncached() -> list[str]:
    """What to say, once a process, where compiled loops can't be kept on disk."""
    words = uncached()
    if words is None or words in _said:
        return []
    _said.add(words)
    return [words]


_said: set[str] = set()


@contextmanager
def _collected_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings of methods, once each, instead of on the terminal."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", MergeWarning)
        yield found
