"""Singular value calibration: no direction of the merge longer than the experts have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._modifier import Merge, modifier
from optmerge.methods._parameters import Positive
from optmerge.methods._solvers.linalg import squareness, top_singular


@modifier(
    auto="decorrelating",
    work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n) * (1 + case.experts),
    workspace=lambda case: 9.0 + 8.0 * squareness(case.m, case.n),
)
def svc(deltas: Sequence[Delta], merge: Merge, *, floor: Positive = 0.1) -> Delta:
    """Singular values of M divided by how often the experts count them.

    M' = U diag(γσ) Vᵀ of M = UΣVᵀ,  γᵣ = N/Σᵢ max(α, sᵣⁱ),  sᵣⁱ = ⟨uᵣᵀM, uᵣᵀτᵢ⟩/‖uᵣᵀτᵢ‖²

    Where α is small, M' doesn't depend on the length of M. An expert with a zero delta doesn't count.
    Low-rank merges stay factors.

    Args:
        deltas: expert − base; not modified.
        merge: what is calibrated.
        floor: α; smaller projections count as this. With 1, singular values only ever shrink.

    Source: Li et al. 2026, "When shared knowledge hurts", arXiv:2602.05536 (ICML 2026), Equation 8 and
    Algorithm 1.
    """
    merged = merge(deltas)
    top = top_singular(merged, min(merged.shape))
    moving = [delta for delta in deltas if delta.squared_norm() > 0]
    if not top.values.numel() or not moving:
        return zero_like(deltas)
    counted = torch.zeros_like(top.values)
    for delta in moving:
        response = _response(delta, top.left)  # (n, K)
        own = response.square().sum(dim=0)
        projection = (
            top.values * (top.right * response).sum(dim=0) / own.clamp(min=torch.finfo(own.dtype).tiny)
        )
        counted += torch.where(own > 0, projection, 0.0).clamp(min=floor)
    up = top.left * (top.values * len(moving) / counted)
    if isinstance(merged, LowRank):
        return LowRank(up.to(merged.dtype), top.right.T.to(merged.dtype))
    return Dense((up @ top.right.T).to(merged.dtype))


def _response(delta: Delta, left: Tensor) -> Tensor:
    """τᵀU."""
    if isinstance(delta, LowRank):
        return delta.down.T.to(left.dtype) @ (delta.up.T.to(left.dtype) @ left)
    return (left.T @ delta.values.to(left.dtype)).T
