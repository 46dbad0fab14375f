"""Task arithmetic: the sum of the task vectors."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, linear_combination
from optmerge.methods._fast.elementwise import CompiledSum
from optmerge.methods._method import Resources, Streaming
from optmerge.methods._registry import method


@method(
    granularity="element",
    scale=0.3,
    auto="sum",
    resources=Resources(workspace=lambda case: 2.0),
    streaming=Streaming(compiled=CompiledSum()),
)
def task_arithmetic(deltas: Sequence[Delta]) -> Delta:
    """Sum of the task vectors, scaled down.

    M = Σ τᵢ

    Low-rank deltas stay factors.

    Source: Ilharco et al. 2022, "Editing models with task arithmetic", arXiv:2212.04089.
    """
    return linear_combination(deltas, [1.0] * len(deltas))
