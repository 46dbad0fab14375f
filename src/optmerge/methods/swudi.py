"""SWUDI: the gradient flow of the WUDI loss, truncated to the leading eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.methods._method import Case, Resources
from optmerge.methods._parameters import DropRate, Fraction, Positive, share
from optmerge.methods._registry import method
from optmerge.methods._solvers.approximation import approximate_flow, approximation_work, is_approximated
from optmerge.methods._solvers.quadratic import (
    Filter,
    Start,
    in_factor_space,
    interaction_work,
    interaction_workspace,
    solve_interaction,
)

FLOOR = 1e-8
"""Eigenvalues of C (its trace is N) below this are taken as this."""

TOLERANCE = 0.02
"""Default; left out of resolved parameters, so that those of records from before it are the same as now."""


def _resolve(parameters: dict[str, Any], low_rank: bool) -> dict[str, Any]:
    return {key: each for key, each in parameters.items() if (key, each) != ("tolerance", TOLERANCE)}


def _tolerance(case: Case) -> float:
    wide = is_approximated(case.experts, case.m, case.n)
    return float(case.parameters.get("tolerance", TOLERANCE)) if wide else 0.0


def _work(case: Case) -> float:
    if _tolerance(case):
        return approximation_work(case.experts, case.m, case.n)
    return interaction_work(case.experts, case.m, case.n)


@method(
    granularity="matrix",
    scale=0.3,
    auto="decorrelating",
    resolve=_resolve,
    resources=Resources(
        work=_work,
        workspace=lambda case: interaction_workspace(case.experts, case.m, case.n, case.parameters),
        keeps_factors=lambda parameters: True,
        tolerance=_tolerance,
    ),
)
def swudi(
    deltas: Sequence[Delta],
    *,
    time: Positive = 300.0,
    rank_fraction: Fraction = 0.65,
    start: Start = "sum",
    tolerance: DropRate = TOLERANCE,
) -> Delta:
    """Gradient flow of the WUDI loss for a given time, in closed form, on the leading eigenvalues.

    M = θ₀ + (D − θ₀C) Q (f/Λ) Qᵀ,  f = 1 − exp(−λ·time) on the top ⌈rank_fraction·n⌉ eigenvalues, else 0

    C = Σ wᵢτᵢᵀτᵢ = QΛQᵀ, D = Σ wᵢτᵢτᵢᵀτᵢ, eigenvalues floored at 1e-8. Low-rank deltas stay factors.

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        time: of the flow.
        rank_fraction: share of the n eigenvalues that move.
        start: θ₀, the `sum` or `mean` of the deltas, or `zero`.
        tolerance: relative error up to which wide dense matrices may be approximated (m < n, eigenproblem of
            more than 4096 rows): leading directions are solved, on all others one or two steps along the
            gradient are taken. The error is estimated first; where it would be larger, and with 0, the
            eigenproblem is solved.

    Source: the spectral form of WUDI in public code that followed OptMerge.
    """
    top = math.ceil(share(rank_fraction, deltas[0].shape[1]))

    def solve(matrices: Sequence[Tensor]) -> Tensor:
        if tolerance and is_approximated(len(matrices), *matrices[0].shape):
            found = approximate_flow(matrices, start, lambda values: flow(values, time), top, tolerance)
            if found is not None:
                return found
        return solve_interaction(matrices, start, flow_filter(time, top))

    return in_factor_space(deltas, solve)


def flow(values: Tensor, time: float) -> Tensor:
    """φ(λ) = (1 − exp(−λ·time))/λ."""
    floored = values.clamp(min=FLOOR)
    return -torch.expm1(-floored * time) / floored


def flow_filter(time: float, top: int) -> Filter:
    """The flow on the leading `top` eigenvalues, 0 elsewhere."""

    def phi(values: Tensor) -> Tensor:
        moved = flow(values, time)
        moved[top:] = 0
        return moved

    return phi
