"""Median: the middle value of the experts, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from optmerge.deltas import Delta, Dense
from optmerge.methods import Case, Resources, method


def _workspace(case: Case) -> float:
    return 4.0 * case.experts + 1.0


@method(granularity="element", scale=1.0, resources=Resources(workspace=_workspace))
def median(deltas: Sequence[Delta], *, towards_mean: Annotated[float, Field(ge=0, le=1)] = 0.0) -> Delta:
    """Median of the task vectors, entry by entry, drawn towards their mean on request.

    M = (1 − a)·median τᵢ + a·mean τᵢ

    The median of an even number of experts is the mean of the two middle values.

    Args:
        deltas: expert − base; not modified.
        towards_mean: a, share of the mean, in [0, 1].

    Source: Yin et al. 2018, "Byzantine-robust distributed learning", arXiv:1803.01498, Definition 1.
    """
    values = torch.stack([delta.dense() for delta in deltas]).sort(dim=0).values  # (expert, …)
    middle = (values[(len(deltas) - 1) // 2] + values[len(deltas) // 2]) / 2
    return Dense(torch.lerp(middle, values.mean(dim=0), towards_mean))
