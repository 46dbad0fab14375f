"""Pico: output directions that many experts share are taken back before the merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank
from optmerge.methods._modifier import Merge, modifier
from optmerge.methods._solvers.linalg import solver_dtype, solver_width, squared_norm


@modifier(
    work=lambda case: 2.0 * case.m * case.m * case.n * case.experts + case.m**3,
    workspace=lambda case: (case.experts + 3.0 + 3.0 * case.m / case.n) * solver_width(case.m, case.n),
)
def pico(deltas: Sequence[Delta], merge: Merge, *, split: Literal["given", "even"] = "given") -> Delta:
    """Output directions damped where the experts' factors crowd; then M at the experts' mean length.

    τᵢ ← U diag(α) Uᵀτᵢ + (I − UUᵀ)τᵢ,  αₖ = 1/(1 + (N − 1)Sₖ²/ΣS²),  [B₁ … B_N] = USRᵀ,  τᵢ = BᵢAᵢ

    That is (I + λΣBᵢBᵢᵀ)⁻¹τᵢ, λ = (N − 1)/Σ‖Bᵢ‖². Afterwards ‖M‖ ← mean‖τᵢ‖ of what was given. Low-rank
    deltas stay factors.

    Args:
        deltas: expert − base; not modified.
        merge: what merges the damped deltas.
        split: of a low-rank delta into Bᵢ and Aᵢ: `given`, as the adapter has it; `even`, Aᵢ with orthonormal
            rows, which doesn't depend on the adapter's bookkeeping. Others are split evenly: BᵢBᵢᵀ = τᵢτᵢᵀ.

    Source: Tang & Yang 2026, "Crowded in B-space", arXiv:2604.16826, and its code.
    """
    if len(deltas) == 1:
        return merge(deltas)
    merged = merge(_damped(deltas, split))
    length = math.sqrt(merged.squared_norm())
    mean = math.fsum(math.sqrt(delta.squared_norm()) for delta in deltas) / len(deltas)
    return merged.scaled(mean / length) if length else merged


def _damped(deltas: Sequence[Delta], split: str) -> list[Delta]:
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) == len(deltas):
        return _damped_factors(low, split)
    matrices = [delta.dense().to(solver_dtype(delta.dense())) for delta in deltas]
    total = sum(squared_norm(matrix) for matrix in matrices)
    if not total:
        return list(deltas)
    curvature = torch.eye(matrices[0].shape[0], dtype=matrices[0].dtype, device=matrices[0].device)
    for matrix in matrices:
        curvature.addmm_(matrix, matrix.T, alpha=(len(deltas) - 1) / total)
    lower = torch.linalg.cholesky(curvature)
    return [Dense(torch.cholesky_solve(matrix, lower).to(deltas[0].dtype)) for matrix in matrices]


def _damped_factors(deltas: Sequence[LowRank], split: str) -> list[Delta]:
    """The same by (I + λBBᵀ)⁻¹ = I − B(I/λ + BᵀB)⁻¹Bᵀ, in Σrᵢ dimensions."""
    ups = [delta.up.to(torch.float64) for delta in deltas]
    downs = [delta.down.to(torch.float64) for delta in deltas]
    factors = torch.cat(
        [up if split == "given" else up @ _root(down) for up, down in zip(ups, downs, strict=True)], 1
    )
    total = squared_norm(factors)
    if not total:
        return list(deltas)
    inner = factors.T @ factors
    inner.diagonal().add_(total / (len(deltas) - 1))
    lower = torch.linalg.cholesky(inner)
    return [
        LowRank(
            (up - factors @ torch.cholesky_solve(factors.T @ up, lower)).to(delta.dtype),
            delta.down,
            delta.full_shape,
        )
        for up, delta in zip(ups, deltas, strict=True)
    ]


def _root(down: Tensor) -> Tensor:
    """R of Aᵀ = QRᵀ: BA = (BR)Qᵀ, Qᵀ with orthonormal rows."""
    upper: Tensor = torch.linalg.qr(down.T).R.T
    return upper
