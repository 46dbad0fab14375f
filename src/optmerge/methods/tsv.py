"""Task singular vectors: keep each expert's leading directions and make them orthogonal to each other's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._method import Resources
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import polar_factor, squareness, top_rank, top_singular


@method(
    granularity="matrix",
    scale=0.3,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n) * case.experts,
        workspace=lambda case: 9.2 + 10.0 * squareness(case.m, case.n),
        one_core=False,
        keeps_factors=lambda parameters: True,
    ),
)
def tsv(deltas: Sequence[Delta]) -> Delta:
    """Leading singular triplets of every task vector, decorrelated between the experts.

    k = ⌊min(m, n)/N⌋;  U, S, V the top-k triplets of all τᵢ side by side;  M = U⊥ S V⊥ᵀ,
    where ⊥ is the nearest matrix with orthonormal columns (polar factor)

    Low-rank deltas stay factors, and give only as many triplets as their rank: the null directions that a
    full decomposition of a rank-deficient delta fills in are arbitrary.

    Source: Gargiulo et al. 2024, "Task singular vectors", arXiv:2412.00081.
    """
    k = top_rank(deltas[0].shape, None, len(deltas))
    tops = [top for top in (top_singular(delta, k) for delta in deltas) if top.values.numel()]
    if not tops:
        return zero_like(deltas)
    left = polar_factor(torch.cat([top.left for top in tops], dim=1))  # (m, Nk)
    right = polar_factor(torch.cat([top.right for top in tops], dim=1))  # (n, Nk)
    up = left * torch.cat([top.values for top in tops])
    if all(isinstance(delta, LowRank) for delta in deltas):
        return LowRank(up.to(deltas[0].dtype), right.T.to(deltas[0].dtype))
    return Dense((up @ right.T).to(deltas[0].dtype))
