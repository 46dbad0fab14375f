"""Model soups: the mean of the experts."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, mean
from optmerge.methods._fast.elementwise import CompiledSum
from optmerge.methods._method import Resources, Streaming
from optmerge.methods._registry import method


@method(
    granularity="element",
    scale=1.0,
    affine=True,
    resources=Resources(workspace=lambda case: 2.0),
    streaming=Streaming(compiled=CompiledSum(divided=True)),
)
def average(deltas: Sequence[Delta]) -> Delta:
    """Mean of the experts; weights are normalised to sum to one.

    M = (1/N) Σ τᵢ

    Low-rank deltas stay factors. An expert whose delta is zero counts in N.

    Source: Wortsman et al. 2022, "Model soups", arXiv:2203.05482.
    """
    return mean(deltas)
