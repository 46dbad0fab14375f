"""KnOTS: deltas merged in the coordinates of their joint singular value decomposition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.deltas.thin import gram, thin_qr
from optmerge.methods._modifier import Merge, modifier

NULL = 1e-5
"""Singular values up to this are left out, as in the published code; the bound is absolute there too."""


@modifier(
    work=lambda case: 4.0 * case.m * case.m * case.n * case.experts + 10.0 * case.m**3,
    workspace=lambda case: case.experts + 6.0 + 8.0 * case.m / case.n,
    keeps_factors=lambda inner: True,
)
def knots(deltas: Sequence[Delta], merge: Merge) -> Delta:
    """Deltas in one output basis, by the singular value decomposition of all of them side by side.

    M = U merge(Uᵀτ₁, …, Uᵀτ_N),  [τ₁ … τ_N] = UΣ[V₁ᵀ … V_Nᵀ], so that Uᵀτᵢ = ΣVᵢᵀ

    Methods that don't depend on the basis of the outputs give the same as without. Low-rank deltas stay
    factors.

    Args:
        deltas: expert − base; not modified.
        merge: what merges the coordinates, (R, n); published with `ties` and `dare_ties`.

    Source: Stoica et al. 2024, "Model merging with SVD to tie the KnOTS", arXiv:2410.19735, and its code
    (github.com/gstoica27/KnOTS).
    """
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    basis = _basis_of_factors(low) if len(low) == len(deltas) else _basis([d.dense() for d in deltas])
    if not basis.shape[1]:
        return zero_like(deltas)
    dtype = deltas[0].dtype
    merged = merge([Dense(_coordinates(delta, basis).to(dtype)) for delta in deltas])
    if len(low) == len(deltas):
        return LowRank(basis.to(dtype), merged.dense(), low[0].full_shape)
    return Dense((basis @ merged.dense().to(basis.dtype)).to(dtype))


def _basis(matrices: Sequence[Tensor]) -> Tensor:
    """U, (m, R), in float64: eigenvectors of Σ τᵢτᵢᵀ."""
    total = torch.zeros(matrices[0].shape[0], matrices[0].shape[0], dtype=torch.float64)
    total = total.to(matrices[0].device)
    for matrix in matrices:
        total += gram(matrix.T.to(torch.float64))
    squares, vectors = torch.linalg.eigh(total)
    basis: Tensor = vectors[:, squares.clamp(min=0).sqrt() > NULL].flip(1)
    return basis


def _basis_of_factors(deltas: Sequence[LowRank]) -> Tensor:
    """The same from [τ₁ … τ_N] = [B₁ … B_N]·blockdiag(Aᵢ), in Σrᵢ dimensions."""
    rows, upper = thin_qr(torch.cat([delta.up.to(torch.float64) for delta in deltas], dim=1))
    lowers = [torch.linalg.qr(delta.down.to(torch.float64).T).R.T for delta in deltas]
    parts = torch.split(upper, [delta.rank for delta in deltas], dim=1)
    side_by_side = torch.cat([part @ lower for part, lower in zip(parts, lowers, strict=True)], dim=1)
    left, values, _ = torch.linalg.svd(side_by_side, full_matrices=False)
    basis: Tensor = rows @ left[:, values > NULL]
    return basis


def _coordinates(delta: Delta, basis: Tensor) -> Tensor:
    """Uᵀτ, (R, n)."""
    if isinstance(delta, LowRank):
        return (basis.T @ delta.up.to(basis.dtype)) @ delta.down.to(basis.dtype)
    return basis.T @ delta.values.to(basis.dtype)
