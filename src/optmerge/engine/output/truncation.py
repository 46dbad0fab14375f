"""A merged delta as factors: of its exact rank, or truncated."""

from __future__ import annotations

import torch

from optmerge.deltas import Delta, LowRank
from optmerge.deltas.thin import thin_qr

EXACT = 1e-7
"""Singular values below this share of the largest are float32 rounding, not rank."""

ROUNDING = 1e-6
"""Share of a matrix's norm that float32 rounding makes, in sums of a few products."""


def truncated(delta: Delta, rank: int | None, expected: int | None = None) -> tuple[LowRank, float]:
    """A delta as balanced factors of its exact rank, or of at most `rank`, and the squared norm left out.

    Args:
        delta: a matrix, or a tensor that is flattened to one.
        rank: most columns of the factors; None for the exact rank.
        expected: rank that the delta has but for rounding, if all beyond it is that small.
    """
    if isinstance(delta, LowRank):
        rows, upper = thin_qr(delta.up.to(torch.float64))
        columns, lower = thin_qr(delta.down.to(torch.float64).T)
        left, values, right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        left, right = rows @ left, right @ columns.T
    else:
        matrix = delta.values.flatten(start_dim=1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    if expected is not None and values[expected:].norm() <= ROUNDING * values.norm():
        values = values[:expected]
    kept = int((values > EXACT * values[:1]).sum())
    kept = min(kept, rank) if rank is not None else kept
    roots = values[:kept].sqrt()
    shape = delta.shape if len(delta.shape) > 2 else None
    factors = LowRank((left[:, :kept] * roots).cpu(), (roots[:, None] * right[:kept]).cpu(), shape)
    return factors.to(torch.float32), float(values[kept:].double().square().sum())
