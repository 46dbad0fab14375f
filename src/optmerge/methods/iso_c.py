"""Iso-C: the summed task vector with a flat spectrum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from optmerge.deltas import Delta, Dense, linear_combination
from optmerge.errors import MergeWarning
from optmerge.methods._registry import Context, method
from optmerge.methods._solvers.linalg import squareness

RANK_TOLERANCE = 1e-5
"""Singular values below this share of the largest are rounding noise of float32 deltas."""


@method(
    granularity="matrix",
    scale=0.3,
    one_core=False,
    work=lambda m, n, experts: 20.0 * m * n * min(m, n),
    workspace=lambda experts, m, n, parameters: 4.8 + 2.2 * squareness(m, n),
)
def iso_c(deltas: Sequence[Delta], *, context: Context | None = None) -> Delta:
    """The sum of the task vectors with all singular values replaced by their mean.

    M = mean(σ) · U Vᵀ of Σ τᵢ = U diag(σ) Vᵀ

    Where the sum is rank deficient, its null directions are arbitrary and get the same share of the energy as
    the others: a `MergeWarning` says how many there are.

    Source: Marczak et al. 2025, "No task left behind", arXiv:2502.04959.
    """
    total = linear_combination(deltas, [1.0] * len(deltas)).dense()
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    null = int((values <= RANK_TOLERANCE * values[0]).sum())
    if null and float(values[0]) > 0:
        name = (context.tensor if context else "") or "a tensor"
        warnings.warn(
            f"iso_c: the summed delta of {name} is rank deficient; {null} of its {len(values)} directions "
            "are arbitrary and receive as much energy as the real ones",
            MergeWarning,
            stacklevel=2,
        )
    return Dense(values.mean() * (left @ right))
