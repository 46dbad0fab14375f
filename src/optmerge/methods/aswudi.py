"""ASWUDI: the minimiser of the WUDI loss on as many eigenvalues as the spectrum itself suggests."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.errors import did_you_mean
from optmerge.methods._method import Resources
from optmerge.methods._registry import method
from optmerge.methods._solvers.quadratic import (
    Filter,
    Start,
    in_factor_space,
    interaction_work,
    interaction_workspace,
    solve_interaction,
)
from optmerge.methods.swudi import FLOOR

_RULES: dict[str, Callable[[Tensor, float], float]] = {
    "participation_sqrt": lambda values, beta: _participation(values.sqrt()),
    "participation": lambda values, beta: _participation(values),
    "stable_rank": lambda values, beta: float(values.square().sum() / values[0] ** 2),
    "entropy": lambda values, beta: _exp_entropy(values / values.sum()),
    "gavish_donoho": lambda values, beta: _above_noise(values.sqrt(), beta),
}
_CUMULATIVE = re.compile(r"cumvar_(0?\.\d+|1|1\.0)")


def _known_rule(rule: str) -> str:
    if rule not in _RULES and not _CUMULATIVE.fullmatch(rule):
        raise ValueError(f"{did_you_mean(rule, [*_RULES, 'cumvar_0.9'])} (cumvar_x takes any share x)")
    return rule


@method(
    granularity="matrix",
    scale=0.3,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: interaction_work(case.experts, case.m, case.n),
        workspace=lambda case: interaction_workspace(case.experts, case.m, case.n, case.parameters),
        keeps_factors=lambda parameters: True,
    ),
)
def aswudi(
    deltas: Sequence[Delta],
    *,
    rank_rule: Annotated[str, AfterValidator(_known_rule)] = "participation_sqrt",
    start: Start = "sum",
) -> Delta:
    """Minimiser of the WUDI loss on the top K eigenvalues of C, K read off the spectrum.

    M = θ₀ + (D − θ₀C) Q (f/Λ) Qᵀ,  f = 1 on the top K eigenvalues, 0 elsewhere

    C = Σ wᵢτᵢᵀτᵢ = QΛQᵀ, D = Σ wᵢτᵢτᵢᵀτᵢ, eigenvalues floored at 1e-8. Low-rank deltas stay factors.

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        rank_rule: with y = √λ descending: `participation_sqrt` ⌈(Σy)²/Σy²⌉, `participation` ⌈(Σλ)²/Σλ²⌉,
            `stable_rank` ⌈Σλ²/λ₁²⌉, `entropy` ⌈exp H(λ/Σλ)⌉, `cumvar_x` the smallest K whose share of Σλ
            reaches x, `gavish_donoho` the number of y above ω(β)·median(y), β = min(m, n)/max(m, n).
        start: θ₀, the `sum` or `mean` of the deltas, or `zero`.

    Source: the adaptive form of SWUDI in public code that followed OptMerge; Gavish & Donoho 2014,
    arXiv:1305.5870, for the threshold.
    """
    m, n = deltas[0].shape
    phi = adaptive_filter(rank_rule, (m, n))
    return in_factor_space(deltas, lambda items: solve_interaction(items, start, phi))


def adaptive_filter(rule: str, shape: tuple[int, int]) -> Filter:
    """φ(λ) = 1/λ on the top K eigenvalues, 0 elsewhere; the rule sees all n, missing ones at the floor."""

    def phi(values: Tensor) -> Tensor:
        floored = values.clamp(min=FLOOR)
        missing = floored.new_full((max(0, shape[1] - floored.numel()),), FLOOR)
        inverse = 1 / floored
        inverse[adaptive_rank(torch.cat([floored, missing]), rule, min(shape) / max(shape)) :] = 0
        return inverse

    return phi


def adaptive_rank(values: Tensor, rule: str, beta: float) -> int:
    """K for eigenvalues in descending order, at least 1 and at most all of them."""
    cumulative = _CUMULATIVE.fullmatch(rule)
    if cumulative:
        shares = values.cumsum(0) / values.sum()
        rank = int((shares < float(cumulative[1])).sum()) + 1
    else:
        rank = math.ceil(_RULES[rule](values, beta))
    return max(1, min(rank, values.numel()))


def _participation(values: Tensor) -> float:
    return float(values.sum() ** 2 / values.square().sum())


def _exp_entropy(shares: Tensor) -> float:
    return math.exp(float(-(shares * shares.log()).sum()))


def _above_noise(singular: Tensor, beta: float) -> float:
    omega = math.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + math.sqrt(beta**2 + 14 * beta + 1)))
    if beta < 0.9999:
        omega /= math.sqrt(max((1 - beta) ** 2 + beta, 1e-3))
    else:
        omega /= math.sqrt(2 + math.sqrt(3))
    return float((singular > omega * singular.median()).sum())
