"""The merge as one PEFT adapter for the base: exact rank, or truncated with the error reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_writer import write_adapter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.deltas import Delta, LowRank
from optmerge.engine.compute import Surveys, merged_delta, merged_weights
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.sources import Sources

EXACT = 1e-7
"""Singular values below this share of the largest are float32 rounding, not rank."""


def write_merged_adapter(
    plan: Plan,
    sources: Sources,
    surveys: Surveys,
    out: Path,
    progress: Callable[[TensorPlan, int], None] | None = None,
) -> float:
    """Writes the adapter; returns the relative truncation error ‖M − M_r‖/‖M‖ over all matrices.

    Matrices become LoRA factors with the scale in them; other merged tensors go to `modules_to_save`.
    """
    architecture = sources.inputs.base.architecture
    factors: dict[str, LowRank] = {}
    full: dict[str, Tensor] = {}
    lost = kept = 0.0
    for tensor in plan.tensors:
        if tensor.action != "merge":
            continue
        name = architecture.canonical(tensor.name)
        if tensor.layout == "vector":
            merged = merged_weights(plan, tensor, sources, surveys)
            full[name] = merged.to("cpu", DTYPES[tensor.out_dtype].torch)
        else:
            delta = merged_delta(plan, tensor, sources, surveys)
            factors[name], dropped = truncated(delta, plan.recipe.output.rank)
            lost, kept = lost + dropped, kept + factors[name].squared_norm()
        if progress is not None:
            progress(tensor, 4 * sum(part.numel() for part in _parts(factors.get(name), full.get(name))))
    merged_tensors = [tensor for tensor in plan.tensors if tensor.action == "merge"]
    write_adapter(
        out,
        factors,
        full,
        base_model_name=plan.recipe.base,
        embeddings={architecture.canonical(t.name) for t in merged_tensors if t.kind == "embedding"},
        transposed={architecture.canonical(t.name) for t in merged_tensors if t.layout == "transposed"},
        dtype=torch.float32 if plan.recipe.dtype == "auto" else getattr(torch, plan.recipe.dtype),
    )
    return math.sqrt(lost / (lost + kept)) if lost + kept else 0.0


def truncated(delta: Delta, rank: int | None) -> tuple[LowRank, float]:
    """A delta as balanced factors of its exact rank, or of at most `rank`, and the squared norm left out."""
    if isinstance(delta, LowRank):
        rows, upper = torch.linalg.qr(delta.up.to(torch.float64))
        columns, lower = torch.linalg.qr(delta.down.to(torch.float64).T)
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


def _parts(factors: LowRank | None, full: Tensor | None) -> list[Tensor]:
    if factors is not None:
        return [factors.up, factors.down]
    return [full] if full is not None else []
