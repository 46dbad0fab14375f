"""The merge as one PEFT adapter for the base: exact rank, or truncated with the error reported."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_writer import write_adapter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.output_files import disk_errors
from optmerge.deltas import Delta, LowRank
from optmerge.deltas.thin import thin_qr
from optmerge.engine.plan import Action, Plan, Progress, TensorPlan
from optmerge.engine.planning.ends import tied_pairs
from optmerge.engine.running.budget import Budget
from optmerge.engine.running.compute import Surveys, merged_delta, merged_weights
from optmerge.engine.running.pool import Pool
from optmerge.engine.running.scales import Scales
from optmerge.engine.running.sources import Sources
from optmerge.methods import get

EXACT = 1e-7
"""Singular values below this share of the largest are float32 rounding, not rank."""


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

    Matrices become LoRA factors with the scale in them; other merged tensors go to `modules_to_save`. Factors
    wait on the disk until all ranks, which the file begins with, are known.
    """
    architecture = sources.inputs.base.architecture
    merged_tensors = [tensor for tensor in plan.tensors if tensor.action is Action.MERGE]
    found: dict[str, Merged] = {}
    lock = threading.Lock()
    scratch = out / "factors"
    with disk_errors(scratch):
        scratch.mkdir(exist_ok=True)

    def merge(place: tuple[int, TensorPlan]) -> None:
        number, tensor = place
        merged = _merged(plan, tensor, sources, surveys, scales).on_disk(scratch / str(number))
        with lock:
            found[tensor.name] = merged
            if progress is not None:
                progress(tensor, merged.nbytes)

    def one_core(place: tuple[int, TensorPlan]) -> bool:
        return get(plan.use(place[1]).name).resources.one_core

    places = list(enumerate(merged_tensors))
    with Pool(budget.whole_tensors, sources.device) as pool:
        pool.each(merge, filter(one_core, places))
    for place in filterfalse(one_core, places):
        merge(place)
    names = {tensor.name: architecture.canonical(tensor.name) for tensor in merged_tensors}
    factors = {names[tensor]: each.factors for tensor, each in found.items() if each.factors is not None}
    full = {names[tensor]: each.full for tensor, each in found.items() if each.full is not None}
    for alias, source in tied_pairs(sources.inputs.base):
        if source in factors:  # PEFT changes only the end that an adapter names
            factors[alias] = factors[source]
    write_adapter(
        out,
        factors,
        full,
        base_model_name=sources.inputs.base.checkpoint.ref,
        embeddings={names[t.name] for t in merged_tensors if t.kind == "embedding"},
        transposed={names[t.name] for t in merged_tensors if t.layout == "transposed"},
        dtype=torch.float32 if plan.recipe.dtype == "auto" else getattr(torch, plan.recipe.dtype),
    )
    lost = math.fsum(found[tensor.name].lost for tensor in merged_tensors)
    kept = math.fsum(found[tensor.name].kept for tensor in merged_tensors)
    shutil.rmtree(scratch)
    return math.sqrt(lost / (lost + kept)) if lost + kept else 0.0


@dataclass(frozen=True)
class Merged:
    """One merged tensor, as factors or in full.

    Args:
        factors: of a matrix's delta.
        full: of anything else, the new value.
        kept: squared norm of the factors' product.
        lost: squared norm of what truncation left out.
    """

    factors: LowRank | None = None
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
        return replace(self, factors=LowRank(up, down, self.factors.full_shape))


def _mapped(values: Tensor, path: Path) -> Tensor:
    with disk_errors(path):
        path.write_bytes(values.contiguous().numpy().data)
    mapped = torch.from_file(str(path), shared=False, size=values.numel(), dtype=values.dtype)
    return mapped.view(values.shape)


def _merged(plan: Plan, tensor: TensorPlan, sources: Sources, surveys: Surveys, scales: Scales) -> Merged:
    if tensor.layout == "vector":
        values = merged_weights(plan, tensor, sources, surveys, scales.of)
        return Merged(full=values.to("cpu", DTYPES[tensor.out_dtype].torch))
    factors, lost = truncated(
        merged_delta(plan, tensor, sources, surveys, scales.of), plan.recipe.output.rank
    )
    return Merged(factors, None, factors.squared_norm(), lost)


def truncated(delta: Delta, rank: int | None) -> tuple[LowRank, float]:
    """A delta as balanced factors of its exact rank, or of at most `rank`, and the squared norm left out."""
    if isinstance(delta, LowRank):
        rows, upper = thin_qr(delta.up.to(torch.float64))
        columns, lower = thin_qr(delta.down.to(torch.float64).T)
        left, values, right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        left, right = rows @ left, right @ columns.T
    else:
        matrix = delta.values.flatten(start_dim=1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = int((values > EXACT * values[:1]).sum())
    kept = min(kept, rank) if rank is not None else kept
    roots = values[:kept].sqrt()
    shape = delta.shape if len(delta.shape) > 2 else None
    factors = LowRank((left[:, :kept] * roots).cpu(), (roots[:, None] * right[:kept]).cpu(), shape)
    return factors.to(torch.float32), float(values[kept:].double().square().sum())
