"""CART: the mean, and what each expert adds to it in its leading directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense
from optmerge.methods._method import Resources
from optmerge.methods._parameters import Fraction, Positive, share
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import solver_width, squareness, top_singular
from optmerge.methods._solvers.quadratic import in_factor_space, in_solver_dtype, start_at


@method(
    granularity="matrix",
    scale=1.0,
    auto="sum",
    resources=Resources(
        work=lambda case: 10.0 * case.m * case.n * min(case.m, case.n) * case.experts,
        workspace=lambda case: (8.0 + 4.0 * squareness(case.m, case.n)) * solver_width(case.m, case.n),
        keeps_factors=lambda parameters: True,
    ),
)
def cart(deltas: Sequence[Delta], *, rank_fraction: Fraction = 0.08, centred: Positive = 1.0) -> Delta:
    """Mean of the task vectors, plus the leading directions of each one's difference from it.

    M = τ̄ + λ Σ top_k(τᵢ − τ̄),  k = ⌈rank_fraction·min(m, n)⌉

    Low-rank deltas stay factors.

    Args:
        deltas: expert − base; not modified.
        rank_fraction: of min(m, n); the published optimum is near 0.08.
        centred: λ.

    Source: Choi et al. 2024, "Revisiting weight averaging for model merging", arXiv:2412.12153.
    """
    k = math.ceil(share(rank_fraction, min(deltas[0].shape)))
    return in_factor_space(deltas, lambda items: _merged(items, k, centred))


def _merged(deltas: Sequence[Tensor], k: int, factor: float) -> Tensor:
    mean = start_at("mean", deltas)
    differences = torch.zeros_like(mean)
    for matrix in in_solver_dtype(deltas):
        top = top_singular(Dense(matrix - mean), min(k, min(matrix.shape)))
        # A sum of finished products: two experts in either order give the same bits.
        differences += (top.left * top.values).to(mean.dtype) @ top.right.T.to(mean.dtype)
    return differences.mul_(factor).add_(mean)
