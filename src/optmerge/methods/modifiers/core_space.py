"""Core Space: low-rank deltas merged in the basis of all their factors together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._modifier import Merge, modifier


@modifier(
    work=lambda case: 0.0,
    workspace=lambda case: 0.0,
    keeps_factors=lambda inner: True,
)
def core_space(deltas: Sequence[Delta], merge: Merge) -> Delta:
    """Low-rank deltas in the joint basis of their factors: small cores are merged, and nothing is lost.

    M = U_B merge(U_Bᵀτ₁V_A, …) V_Aᵀ,  U_B left singular vectors of [B₁ … B_N], V_A right ones of [A₁; …; A_N]

    Methods that fill null directions (`iso_c`, `tsv` of dense deltas) have none to fill there. Methods that
    work entry by entry give another result than outside, and parameters that are shares of a matrix's sides
    are shares of the cores'. Deltas that aren't all low-rank have no such basis,
    and are merged as they are.

    Args:
        deltas: expert − base; not modified.
        merge: what merges the cores, (R, R) with R at most the sum of the ranks.

    Source: Panariello et al. 2025, "Accurate and efficient low-rank model merging in Core Space",
    arXiv:2509.17786 (NeurIPS 2025).
    """
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) < len(deltas):
        return merge(deltas)
    ups = [delta.up.to(torch.float64) for delta in low]
    downs = [delta.down.to(torch.float64) for delta in low]
    if sum(delta.rank for delta in low) == 0:
        return zero_like(deltas)
    left = torch.linalg.svd(torch.cat(ups, dim=1), full_matrices=False)[0]  # (m, R)
    right = torch.linalg.svd(torch.cat(downs), full_matrices=False)[2]  # (R, n)
    cores = [Dense((left.T @ up) @ (down @ right.T)) for up, down in zip(ups, downs, strict=True)]
    merged = merge(cores).dense()
    return LowRank((left @ merged).to(low[0].dtype), right.to(low[0].dtype), low[0].full_shape)
