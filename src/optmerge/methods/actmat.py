"""ACTMat: regression means with covariances read off the task vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.methods._method import Resources
from optmerge.methods._registry import method
from optmerge.methods._solvers.quadratic import (
    eigen_workspace,
    in_factor_space,
    interaction,
    start_at,
)


@method(
    granularity="matrix",
    scale=1.0,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 4.0 * case.m * case.n * case.n * case.experts + 10.0 * case.n**3,
        workspace=lambda case: eigen_workspace(case.experts, case.m, case.n),
        keeps_factors=lambda parameters: True,
    ),
)
def actmat(deltas: Sequence[Delta]) -> Delta:
    """Regression mean of the experts, their inputs' covariances estimated by the task vectors.

    M = (Σ τᵢCᵢ)(Σ Cᵢ)⁺,  Cᵢ = τᵢᵀτᵢ

    That is the smallest minimiser of Σ‖(M − τᵢ)τᵢᵀ‖²: the loss of WUDI with equal weights, from zero.
    Eigenvalues of ΣCᵢ up to n·ε of the largest, ε of float32 as in published runs, are taken for 0. Low-rank
    deltas stay factors.

    Source: "ACTMat", arXiv:2604.01329, and its code (github.com/marawangamal/actmat, `merge_actmat`).
    """
    sides = deltas[0].shape[1]
    return in_factor_space(
        deltas,
        lambda items: interaction(items, lambda squares: 1.0).solve(
            start_at("zero", items), lambda values: _inverse(values, sides)
        ),
    )


def _inverse(values: Tensor, sides: int) -> Tensor:
    """1/λ where λ is above rounding, 0 elsewhere."""
    floor = sides * torch.finfo(torch.float32).eps * values[:1]
    return torch.where(values > floor, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
