"""Isotropic merging: a flat spectrum for what any method merges."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._modifier import Merge, modifier
from optmerge.methods._solvers.linalg import squareness, top_singular


@modifier(
    auto="decorrelating",
    work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n),
    workspace=lambda case: 7.0 + 6.0 * squareness(case.m, case.n),
)
def isotropize(deltas: Sequence[Delta], merge: Merge) -> Delta:
    """All singular values of M replaced by their mean.

    M' = mean(σ)·UVᵀ of M = U diag(σ) Vᵀ

    Low-rank merges stay factors: only the directions that they have get a share, where `iso_c` fills the null
    space. The mean is over those directions.

    Args:
        deltas: expert − base; not modified.
        merge: what is flattened; `task_arithmetic` gives Iso-C.

    Source: Marczak et al. 2025, "No task left behind", arXiv:2502.04959; for other methods Panariello et al.
    2025, arXiv:2509.17786.
    """
    merged = merge(deltas)
    top = top_singular(merged, min(merged.shape))
    if not top.values.numel():
        return zero_like(deltas)
    up = top.left * top.values.mean()
    if isinstance(merged, LowRank):
        return LowRank(up.to(merged.dtype), top.right.T.to(merged.dtype))
    return Dense((up @ top.right.T).to(merged.dtype))
