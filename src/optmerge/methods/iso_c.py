"""Iso-C: the summed task vector with a flat spectrum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from optmerge.deltas import Delta, Dense, linear_combination
from optmerge.errors import MergeWarning
from optmerge.methods._context import Context
from optmerge.methods._method import Resources
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import SMALL_SIDE, squareness

RANK_TOLERANCE = 1e-5
"""Singular values below this share of the largest are rounding noise of float32 deltas."""


@method(
    granularity="matrix",
    scale=0.3,
    auto="decorrelating",
    resources=Resources(
        work=lambda case: 20.0 * case.m * case.n * min(case.m, case.n),
        workspace=lambda case: 4.8 + 2.2 * squareness(case.m, case.n),
        one_core=False,
    ),
)
def iso_c(deltas: Sequence[Delta], *, context: Context | None = None) -> Delta:
    """The sum of the task vectors with all singular values replaced by their mean.

    M = mean(σ) · U Vᵀ of Σ τᵢ = U diag(σ) Vᵀ

    Where the sum is rank deficient, its null directions are arbitrary and get the same share of the energy as
    the others: a `MergeWarning` says how many there are.

    Source: Marczak et al. 2025, "No task left behind", arXiv:2502.04959.
    """
    total = linear_combination(deltas, [1.0] * len(deltas)).dense()
    across = SMALL_SIDE < total.shape[0] < total.shape[1]  # LAPACK takes thrice as long for wide matrices
    left, values, right = torch.linalg.svd(total.T if across else total, full_matrices=False)
    null = int((values <= RANK_TOLERANCE * values[0]).sum())
    if null and float(values[0]) > 0:
        name = (context.tensor if context else "") or "a tensor"
        warnings.warn(
            f"iso_c: the summed delta of {name} is rank deficient; {null} of its {len(values)} directions "
            "are arbitrary and receive as much energy as the real ones",
            MergeWarning,
            stacklevel=2,
        )
    return Dense(values.mean() * (right.T @ left.T if across else left @ right))
