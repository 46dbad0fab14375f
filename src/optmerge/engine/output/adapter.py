"""The merge as one PEFT adapter for the base: exact rank, or truncated with the error reported."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_writer import StackFactors, write_adapter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.output_files import disk_errors
from optmerge.deltas import LowRank
from optmerge.engine.output.stacks import joined, taken_apart
from optmerge.engine.output.truncation import truncated
from optmerge.engine.plan import Action, Plan, Progress, TensorPlan
from optmerge.engine.planning.ends import tied_pairs
from optmerge.engine.planning.stacks import StackPlace, stack_place
from optmerge.engine.running.budget import Budget
from optmerge.engine.running.compute import Surveys, merged_delta, merged_weights
from optmerge.engine.running.pool import Pool
from optmerge.engine.running.scales import Scales
from optmerge.engine.running.sources import Sources


def write_merged_adapter(
    plan: Plan,
    sources: Sources,
    surveys: Surveys,
    scales: Scales,
    budget: Budget,
    out: Path,
    progress: Progress | None,
) -> float:
    """Writes the adapter; returns the relative truncation error ‖M − M_r‖/‖M‖ over all matrices.

    Matrices become LoRA factors with the scale in them, stacked experts those of a `target_parameters`; other
    merged tensors go to `modules_to_save`. Factors wait on the disk until all ranks are known, which the file
    begins with.
    """
    architecture = sources.inputs.base.architecture
    merged_tensors = [tensor for tensor in plan.tensors if tensor.action is Action.MERGE]
    found: dict[str, Merged] = {}
    places = {tensor.name: stack_place(tensor.name, sources.inputs) for tensor in merged_tensors}
    lock = threading.Lock()
    scratch = out / "factors"
    with disk_errors(scratch):
        scratch.mkdir(exist_ok=True)

    def merge(place: tuple[int, TensorPlan]) -> None:
        number, tensor = place
        merged = _merged(plan, tensor, sources, surveys, scales, places[tensor.name])
        merged = merged.on_disk(scratch / str(number))
        with lock:
            found[tensor.name] = merged
            if progress is not None:
                progress(tensor, merged.nbytes)

    def one_core(place: tuple[int, TensorPlan]) -> bool:
        return plan.use(place[1]).method.resources.one_core

    order = list(enumerate(merged_tensors))
    with Pool(budget.whole_tensors, sources.device) as pool:
        pool.each(merge, filter(one_core, order))
    for place in filterfalse(one_core, order):
        merge(place)
    names = {tensor.name: architecture.canonical(tensor.name) for tensor in merged_tensors}
    written = {names[name]: each for name, each in found.items() if places[name] is None}
    written |= _stacks([(places[name], found[name]) for name in names], plan.recipe.output.rank, scratch)
    factors = {name: each.factors for name, each in written.items() if isinstance(each.factors, LowRank)}
    for alias, source in tied_pairs(sources.inputs.base):
        if source in factors:  # PEFT changes only the end that an adapter names
            factors[alias] = factors[source]
    write_adapter(
        out,
        factors,
        {name: each.full for name, each in written.items() if each.full is not None},
        {name: each.factors for name, each in written.items() if isinstance(each.factors, StackFactors)},
        base_model_name=sources.inputs.base.checkpoint.ref,
        embeddings={names[t.name] for t in merged_tensors if t.kind == "embedding"},
        transposed={names[t.name] for t in merged_tensors if t.layout == "transposed"},
        dtype=torch.float32 if plan.recipe.dtype == "auto" else getattr(torch, plan.recipe.dtype),
    )
    lost = math.fsum(each.lost for each in written.values())
    kept = math.fsum(each.kept for each in written.values())
    shutil.rmtree(scratch)
    return math.sqrt(lost / (lost + kept)) if lost + kept else 0.0


@dataclass(frozen=True)
class Merged:
    """One merged tensor, or stack of experts, as factors or in full.

    Args:
        factors: of a matrix's or a stack's delta.
        full: of anything else, the new value.
        kept: squared norm of the factors' product.
        lost: squared norm of what truncation left out.
    """

    factors: LowRank | StackFactors | None = None
    full: Tensor | None = None
    kept: float = 0.0
    lost: float = 0.0

    @property
    def nbytes(self) -> int:
        """Size of what is held."""
        parts = self.factors.parts if self.factors is not None else (self.full,)
        return sum(part.nbytes for part in parts if part is not None)

    def on_disk(self, path: Path) -> Merged:
        """The same with its factors in two files, mapped into memory only where they are read."""
        if self.factors is None or not self.factors.rank:
            return self
        up, down = (
            _mapped(part, path.with_suffix(suffix))
            for part, suffix in zip(self.factors.parts, (".up", ".down"), strict=True)
        )
        return replace(self, factors=replace(self.factors, up=up, down=down))


def _mapped(values: Tensor, path: Path) -> Tensor:
    with disk_errors(path):
        path.write_bytes(values.contiguous().numpy().data)
    mapped = torch.from_file(str(path), shared=False, size=values.numel(), dtype=values.dtype)
    return mapped.view(values.shape)


def _merged(
    plan: Plan,
    tensor: TensorPlan,
    sources: Sources,
    surveys: Surveys,
    scales: Scales,
    place: StackPlace | None,
) -> Merged:
    if tensor.layout == "vector":
        values = merged_weights(plan, tensor, sources, surveys, scales.of)
        return Merged(full=values.to("cpu", DTYPES[tensor.out_dtype].torch))
    delta, rank = merged_delta(plan, tensor, sources, surveys, scales.of), plan.recipe.output.rank
    if place is not None and place.piece.expert is None:
        stack, lost = taken_apart(delta, place, rank)
        return Merged(stack, None, stack.squared_norm(), lost)
    # One expert's part of a stack is truncated once it is joined with the others.
    factors, lost = truncated(delta, None if place is not None else rank)
    return Merged(factors, None, factors.squared_norm(), lost)


def _stacks(
    found: Sequence[tuple[StackPlace | None, Merged]], rank: int | None, scratch: Path
) -> dict[str, Merged]:
    """Merged stacks by their parameter's name; those that the base stores one by one are joined."""
    stacks = {place.parameter: each for place, each in found if place is not None}
    for number, (parameter, each) in enumerate(stacks.items()):
        if isinstance(each.factors, LowRank):
            parts = [
                (place, part.factors)
                for place, part in found
                if place is not None and place.parameter == parameter and isinstance(part.factors, LowRank)
            ]
            stack, lost = joined(parts, rank)
            merged = Merged(stack, None, stack.squared_norm(), lost)
            stacks[parameter] = merged.on_disk(scratch / f"stack-{number}")
    return stacks
