"""STAR: leading singular values of every task vector, stretched to the nuclear norm it had."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, Dense, LowRank
from optmerge.methods._modifier import Merge, modifier
from optmerge.methods._parameters import Fraction
from optmerge.methods._solvers.linalg import squareness, top_singular


@modifier(
    work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n) * case.experts,
    workspace=lambda case: case.experts + 8.0 + 8.0 * squareness(case.m, case.n),
)
def star(deltas: Sequence[Delta], merge: Merge, *, keep: Fraction = 0.4) -> Delta:
    """Each expert's leading singular values up to a share of their sum, stretched to the whole sum.

    τᵢ ← (Σσ/Σ_{j≤k}σⱼ)·top_k(τᵢ),  k the first with σ₁ + … + σ_k ≥ η·Σσ

    Low-rank deltas stay factors.

    Args:
        deltas: expert − base; not modified.
        merge: what merges the truncated deltas; published with `average`.
        keep: η.

    Source: Lee et al. 2025, "STAR", arXiv:2502.10339 (NAACL 2025), and its code (github.com/IBM/STAR).
    """
    return merge([_truncated(delta, keep) for delta in deltas])


def _truncated(delta: Delta, keep: float) -> Delta:
    top = top_singular(delta, min(delta.shape))
    if not top.values.numel():
        return delta
    sums = top.values.cumsum(0)
    k = min(int((sums < keep * sums[-1]).sum()) + 1, len(sums))
    up = top.left[:, :k] * (top.values[:k] * (sums[-1] / sums[k - 1]))
    down = top.right[:, :k].T
    if isinstance(delta, LowRank):
        return LowRank(up.to(delta.dtype), down.to(delta.dtype))
    return Dense((up @ down).to(delta.dtype))
