"""WUDI: minimise the interference of the merged vector with what each expert's inputs see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from optmerge.deltas import Delta, Dense, zero_like
from optmerge.methods._method import Case, Resources
from optmerge.methods._parameters import Positive, Steps
from optmerge.methods._registry import method
from optmerge.methods._solvers.iterations import Optimizer, descend, literal_loop
from optmerge.methods._solvers.linalg import solver_width, squared_norm
from optmerge.methods._solvers.quadratic import (
    Dual,
    Quadratic,
    in_factor_space,
    interaction,
    interaction_workspace,
    joint_factor_space,
    solve_interaction,
    start_at,
)

NULL = 1e-10
"""Eigenvalues below this share of the largest are the null space of C, where M stays at its start."""


def _workspace(case: Case) -> float:
    experts, m, n = case.experts, case.m, case.n
    if case.parameters["solver"] == "exact":  # in float64
        return 2 * interaction_workspace(experts, m, n, case.parameters)
    shape = experts + 1.0 if experts * m <= n else 4.0 * n / m
    return (10.0 + shape) * solver_width(m, n)


def _work(case: Case) -> float:
    m, n = case.m, case.n
    return 4.0 * m * n * min(m, n) * case.experts + 600.0 * m * n * n


@method(
    granularity="matrix",
    scale=0.3,
    auto="sum",
    resources=Resources(_work, _workspace, keeps_factors=lambda parameters: parameters["solver"] == "exact"),
)
def wudi(
    deltas: Sequence[Delta],
    *,
    steps: Steps = 300,
    lr: Positive = 1e-5,
    solver: Literal["gram", "iterate", "exact"] = "gram",
) -> Delta:
    """Optimise the merged vector on its interference with the task vectors.

    minimise Σ wᵢ‖(M − τᵢ)τᵢᵀ‖²_F,  wᵢ = 1/‖τᵢ‖²_F,  by Adam from Σ τᵢ

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        steps: of Adam.
        lr: of Adam.
        solver: `gram` takes the steps on 2(MC − D); `iterate` takes them as written (m×m products; slow);
            `exact` goes to the minimiser nearest to the start in closed form; low-rank deltas stay factors.

    Source: Cheng et al. 2025, "Whoever started the interference should end it", arXiv:2503.08099.
    """
    if solver == "exact":  # divides by small eigenvalues, so in float64 whatever the size
        merged = in_factor_space(
            [delta.to(torch.float64) for delta in deltas],
            lambda items: solve_interaction(items, "sum", _pseudo_inverse),
        )
        return merged.to(deltas[0].dtype)
    optimizer = Optimizer("adam", lr, steps)
    if solver == "iterate":
        matrices = [delta.dense() for delta in deltas]
        start = start_at("sum", matrices).to(matrices[0].dtype)
        moving = [matrix for matrix in matrices if bool(matrix.any())]
        weights = [1 / squared_norm(matrix.double()) for matrix in moving]
        return Dense(literal_loop(start, weights, moving, moving, optimizer))
    start, quadratic = _problem(deltas)
    return Dense(descend(quadratic, start.to(deltas[0].dtype), optimizer))


def _problem(deltas: Sequence[Delta]) -> tuple[torch.Tensor, Quadratic]:
    """M₀ and the quadratic, built from factors where the deltas have them."""
    space = joint_factor_space(deltas)
    if space is None:
        matrices = [delta.dense() for delta in deltas]
        return start_at("sum", matrices), interaction(matrices)
    if space.rows.shape[1] == 0:
        return zero_like(deltas).dense(), Dual(space.columns.T, space.rows)
    core = as_dual(interaction(space.cores))
    start = space.rows @ start_at("sum", space.cores) @ space.columns.T
    return start, core.expand(space)


def as_dual(quadratic: Quadratic) -> Dual:
    """The dual form of a small quadratic: F = Λ^½Qᵀ, E = DQΛ^(−½), null directions left out."""
    if isinstance(quadratic, Dual):
        return quadratic
    values, vectors = torch.linalg.eigh(quadratic.curvature)
    kept = values > values[-1] * NULL
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    return Dual(roots[:, None] * vectors.T, (quadratic.target @ vectors) / roots)


def _pseudo_inverse(values: torch.Tensor) -> torch.Tensor:
    floor = values.max() * NULL if values.numel() else 0.0
    return torch.where(values > floor, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
