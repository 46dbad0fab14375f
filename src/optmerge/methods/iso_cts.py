"""Iso-CTS: a flat spectrum on directions that the experts share and on directions of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.methods._method import Case, Resources
from optmerge.methods._parameters import UnitInterval, share
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import leading_directions, polar_factor, solver_width, squareness
from optmerge.methods._solvers.quadratic import in_factor_space, in_solver_dtype


def _workspace(case: Case) -> float:
    arrays = case.experts + 9.0 + 8.0 * squareness(case.m, case.n)
    return arrays * solver_width(case.m, case.n)


@method(
    granularity="matrix",
    scale=1.0,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 20.0 * case.m * case.n * min(case.m, case.n) * (case.experts + 1),
        workspace=_workspace,
        keeps_factors=lambda parameters: True,
    ),
)
def iso_cts(deltas: Sequence[Delta], *, common: UnitInterval = 0.8) -> Delta:
    """The sum's leading directions and each expert's own, made orthogonal, with one singular value.

    M = σ̄·U⊥V⊥ᵀ of [U₁ … U_N, U_c], [V₁ … V_N, V_c]:  c top triplets of Σ τᵢ, k of each (I − U_cU_cᵀ)τᵢ,
    σ̄ the mean of all their singular values, ⊥ the polar factor; c + Nk = min(m, n), c near common·min(m, n)

    For low-rank deltas the sum of their ranks takes the place of min(m, n), and they stay factors.

    Args:
        deltas: expert − base; not modified.
        common: share of the directions that are the sum's.

    Source: Marczak et al. 2025, "No task left behind", arXiv:2502.04959, Algorithm 2; for low-rank deltas as
    in the code of DC-Merge, arXiv:2603.06242.
    """
    return in_factor_space(deltas, lambda items: _merged(items, common))


def _merged(deltas: Sequence[Tensor], common: float) -> Tensor:
    matrices, experts, size = list(in_solver_dtype(deltas)), len(deltas), min(deltas[0].shape)
    own = round((size - int(share(common, size))) / experts)  # directions of each expert
    shared = size - own * experts
    total = sum(matrices[1:], matrices[0])
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    lefts, found, rights = [left[:, :shared]], [values[:shared]], [right[:shared]]
    for matrix in matrices if own else ():
        rest = matrix - left[:, :shared] @ (left[:, :shared].T @ matrix)
        top = leading_directions(rest, own)  # most of its singular values are 0, which LAPACK can fail at
        lefts.append(top.left)
        found.append(top.values)
        rights.append(top.right.T)
    up, down = polar_factor(torch.cat(lefts, dim=1)), polar_factor(torch.cat(rights).T)
    flat = torch.cat(found)
    merged: Tensor = (flat.mean() if flat.numel() else 0.0) * (up @ down.T)
    return merged
