"""SWUDI: the gradient flow of the WUDI loss, truncated to the leading eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.methods._method import Resources
from optmerge.methods._parameters import Fraction, Positive, share
from optmerge.methods._registry import method
from optmerge.methods._solvers.quadratic import (
    Filter,
    in_factor_space,
    interaction,
    interaction_workspace,
    start_at,
)

FLOOR = 1e-8
"""Eigenvalues of C (its trace is N) below this are taken as this."""

Start = Literal["sum", "mean", "zero"]


@method(
    granularity="matrix",
    scale=0.3,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 4.0 * case.m * case.n * case.n * case.experts + 10.0 * case.n**3,
        workspace=lambda case: interaction_workspace(case.experts, case.m, case.n, case.parameters),
        keeps_factors=lambda parameters: True,
    ),
)
def swudi(
    deltas: Sequence[Delta],
    *,
    time: Positive = 300.0,
    rank_fraction: Fraction = 0.65,
    start: Start = "sum",
) -> Delta:
    """Gradient flow of the WUDI loss for a given time, in closed form, on the leading eigenvalues.

    M = θ₀ + (D − θ₀C) Q (f/Λ) Qᵀ,  f = 1 − exp(−λ·time) on the top ⌈rank_fraction·n⌉ eigenvalues, else 0

    C = Σ wᵢτᵢᵀτᵢ = QΛQᵀ, D = Σ wᵢτᵢτᵢᵀτᵢ, eigenvalues floored at 1e-8. Low-rank deltas stay factors.

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        time: of the flow.
        rank_fraction: share of the n eigenvalues that move.
        start: θ₀, the `sum` or `mean` of the deltas, or `zero`.

    Source: the spectral form of WUDI in public code that followed OptMerge.
    """
    top = math.ceil(share(rank_fraction, deltas[0].shape[1]))
    phi = flow_filter(time, top)
    return in_factor_space(deltas, lambda items: interaction(items).solve(start_at(start, items), phi))


def flow_filter(time: float, top: int) -> Filter:
    """φ(λ) = (1 − exp(−λ·time))/λ on the leading `top` eigenvalues, 0 elsewhere."""

    def phi(values: Tensor) -> Tensor:
        floored = values.clamp(min=FLOOR)
        moved = -torch.expm1(-floored * time) / floored
        moved[top:] = 0
        return moved

    return phi
