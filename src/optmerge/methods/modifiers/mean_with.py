"""The mean of two methods, each brought to one length first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from optmerge.deltas import Delta, linear_combination
from optmerge.methods._apply import apply, get
from optmerge.methods._context import Context
from optmerge.methods._method import Case
from optmerge.methods._modifier import Merge, modifier


def _known(name: str) -> str:
    return get(name).name


def _other(case: Case) -> Case:
    other = get(case.parameters["method"])
    return Case(case.experts, case.m, case.n, other.resolve(other.validate({}), False))


def _workspace(case: Case) -> float:
    return get(case.parameters["method"]).resources.workspace(_other(case)) + 2.0


@modifier(
    auto="decorrelating",
    work=lambda case: get(case.parameters["method"]).resources.work(_other(case)),
    workspace=_workspace,
)
def mean_with(
    deltas: Sequence[Delta],
    merge: Merge,
    *,
    method: Annotated[str, AfterValidator(_known)] = "tsv",
    context: Context | None = None,
) -> Delta:
    """Mean of two merges of one length, as long as the experts side by side.

    M' = a·H/‖H‖,  H = M/‖M‖ + B/‖B‖,  a = √Σ‖τᵢ‖²

    Two low-rank merges stay factors.

    Args:
        deltas: expert − base; not modified.
        merge: makes M.
        method: makes B, by its defaults; modifiers may be part of the name.

    Source: this project; figures in docs/explain/notebook.md.
    """
    other = get(method)
    parameters = other.resolve(other.validate({}), False)
    merges = [merge(deltas), apply(other, deltas, parameters, context or Context())]
    lengths = [math.sqrt(each.squared_norm()) for each in merges]
    mean = linear_combination(merges, [1 / length if length else 0.0 for length in lengths])
    length, whole = mean.squared_norm(), math.fsum(delta.squared_norm() for delta in deltas)
    return mean.scaled(math.sqrt(whole / length)) if length else mean
