"""ACE-Merging: regression means with adaptive covariances, as published and as a ridge towards the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, zero_like
from optmerge.methods._method import Case, Resources
from optmerge.methods._parameters import Fraction, Positive
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import solver_dtype, solver_width, squareness
from optmerge.methods._solvers.quadratic import (
    in_factor_space,
    interaction_workspace,
    solve_interaction,
)

UNEVEN = 0.3
"""Variance of log‖τᵢ‖² over its squared mean above which covariances are normalised."""
TINY = 1e-12


def _workspace(case: Case) -> float:
    square = case.n / case.m  # entries of an n×n matrix for each of the m×n matrix's own
    arrays = case.experts * (square + 2.0) + 4.0 + 4.0 * square + 4.0 * squareness(case.m, case.n)
    return arrays * solver_width(case.m, case.n)


@method(
    granularity="matrix",
    scale=1.0,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 4.0 * case.m * case.n * case.n * case.experts + 10.0 * case.n**3,
        workspace=_workspace,
    ),
)
def ace(deltas: Sequence[Delta], *, ridge: Positive = 1e-2, rank_fraction: Fraction = 0.3) -> Delta:
    """Regression mean with ridged covariances of centred task vectors, and a flat spectrum where uneven.

    M = (Σ Zᵢ(Sᵢ + εᵢI))(Σ (Sᵢ + εᵢI) + 1cᵀ)⁻¹,  Sᵢ = ZᵢᵀZᵢ, Zᵢ = τᵢ less the mean of its rows

    c is the mean row of ΣSᵢ. Where the experts are uneven, Var(log‖τᵢ‖²) > 0.3·mean(log‖τᵢ‖²)², Sᵢ and εᵢ
    are divided by tr Sᵢ and c by mean‖τᵢ‖², and σ̄·U_kV_kᵀ is added, of M + Σ τᵢ(Sᵢ − S̄) = UΣVᵀ, σ̄ the mean
    of its k largest singular values. That test depends on the unit of the weights, and ε is absolute:
    `ace_ridge` has neither. An expert with a zero delta has no term.

    Args:
        deltas: expert − base; not modified.
        ridge: ε.
        rank_fraction: k as a share of min(m, n).

    Source: "ACE-Merging", arXiv:2603.02945 (CVPR 2026), by its code
    (github.com/unravel-xu/ACE-Merging, `ace_merging`).
    """
    dtype = solver_dtype(deltas[0].parts[0])
    moving = [delta.dense().to(dtype) for delta in deltas if delta.squared_norm() > 0]
    if not moving:
        return zero_like(deltas)
    squares = torch.stack([matrix.square().sum() for matrix in moving])
    uneven = len(moving) > 1 and _unevenness(squares) > UNEVEN
    centred = [matrix - matrix.mean(dim=0, keepdim=True) for matrix in moving]
    covariances = [matrix.T @ matrix for matrix in centred]
    traces = [float(each.trace()) + TINY if uneven else 1.0 for each in covariances]
    for covariance, trace in zip(covariances, traces, strict=True):
        covariance.div_(trace)
    merged, mean = _regression(centred, covariances, [ridge / trace for trace in traces], squares, uneven)
    if uneven:
        residual = merged.clone()
        for matrix, covariance in zip(moving, covariances, strict=True):
            residual.addmm_(matrix, covariance - mean)
        merged.add_(_flattened(residual, rank_fraction))
    return Dense(merged.to(deltas[0].dtype))


def _unevenness(squares: Tensor) -> float:
    logs = (squares + TINY).log()
    return float(logs.var() / (logs.mean().square() + TINY))


def _regression(
    centred: Sequence[Tensor],
    covariances: Sequence[Tensor],
    ridges: Sequence[float],
    squares: Tensor,
    uneven: bool,
) -> tuple[Tensor, Tensor]:
    """M of the regression, (m, n), and the mean of the ridged covariances, (n, n)."""
    total, target = torch.zeros_like(covariances[0]), torch.zeros_like(centred[0])
    for matrix, covariance, ridge in zip(centred, covariances, ridges, strict=True):
        total.add_(covariance)
        target.addmm_(matrix, covariance).add_(matrix, alpha=ridge)
    row = total.mean(dim=0, keepdim=True)  # (1, n)
    if uneven:
        row = row / (squares.mean() + TINY)
    total.diagonal().add_(sum(ridges))
    return torch.linalg.solve(total + row, target, left=False), total / len(centred)


def _flattened(matrix: Tensor, rank_fraction: float) -> Tensor:
    """The leading directions of a matrix at the mean of their singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    k = max(1, int(len(values) * rank_fraction))
    flat: Tensor = values[:k].mean() * (left[:, :k] @ right[:k])
    return flat


@method(
    granularity="matrix",
    scale=1.0,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 4.0 * case.m * case.n * case.n * case.experts + 10.0 * case.n**3,
        workspace=lambda case: interaction_workspace(case.experts, case.m, case.n, case.parameters),
        keeps_factors=lambda parameters: True,
    ),
)
def ace_ridge(deltas: Sequence[Delta], *, ridge: Positive = 0.1) -> Delta:
    """Regression mean with covariances read off the task vectors, and a ridge towards the plain mean.

    M = (D + ελ̄τ̄)(C + ελ̄I)⁻¹,  C = Σ wᵢτᵢᵀτᵢ, D = Σ wᵢτᵢτᵢᵀτᵢ, wᵢ = 1/‖τᵢ‖², λ̄ = tr C/n, τ̄ the mean

    The useful part of ACE-Merging without its units: nothing changes when all deltas get longer together, or
    under orthogonal changes of basis. Low-rank deltas stay factors.

    Args:
        deltas: expert − base; an expert with a zero delta has no term, and counts in the mean.
        ridge: ε, in units of the mean eigenvalue of C; large values give the mean.

    Source: a form of ACE-Merging, arXiv:2603.02945, that doesn't depend on the scale of the weights.
    """
    n = deltas[0].shape[1]

    def phi(values: Tensor) -> Tensor:
        return 1 / (values + ridge * values.sum() / n).clamp(min=torch.finfo(values.dtype).tiny)

    return in_factor_space(deltas, lambda items: solve_interaction(items, "mean", phi))
