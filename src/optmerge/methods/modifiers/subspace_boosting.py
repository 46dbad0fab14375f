"""Subspace boosting: no singular value of the merge far below the leading ones."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._modifier import Merge, modifier
from optmerge.methods._parameters import Fraction
from optmerge.methods._solvers.linalg import squareness, top_singular


@modifier(
    auto="decorrelating",
    work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n),
    workspace=lambda case: 7.0 + 6.0 * squareness(case.m, case.n),
)
def subspace_boosting(deltas: Sequence[Delta], merge: Merge, *, share: Fraction = 0.01) -> Delta:
    """Small singular values of M raised to the one at which the largest hold a share of their sum.

    M' = U diag(max(σ, σ_k)) Vᵀ of M = UΣVᵀ,  k the first with σ₁ + … + σ_k ≥ β·Σσ

    Low-rank merges stay factors: only the directions that they have are raised, where published code raises
    arbitrary null directions too.

    Args:
        deltas: expert − base; not modified.
        merge: what is boosted; published with task arithmetic.
        share: β.

    Source: Skorobogat et al. 2025, "Subspace-boosted model merging", arXiv:2506.16506, and its code
    (github.com/ronskoro/Subspace-Boosting).
    """
    merged = merge(deltas)
    top = top_singular(merged, min(merged.shape))
    if not top.values.numel():
        return zero_like(deltas)
    shares = top.values.cumsum(0) / top.values.sum()
    k = min(int((shares < share).sum()), top.values.numel() - 1)
    up = top.left * top.values.clamp(min=float(top.values[k]))
    if isinstance(merged, LowRank):
        return LowRank(up.to(merged.dtype), top.right.T.to(merged.dtype))
    return Dense((up @ top.right.T).to(merged.dtype))
