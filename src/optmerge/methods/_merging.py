"""The one way to call any method on the task vectors of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optmerge.deltas import Delta, LowRank, as_deltas
from optmerge.errors import MethodError
from optmerge.methods._context import Context
from optmerge.methods._registry import get


def merge_deltas(
    name: str,
    deltas: Tensor | Sequence[Tensor | Delta],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Any:
    """Merges the task vectors of one tensor.

    Args:
        name: a method's name, as in `optmerge methods`.
        deltas: an (N, …) float tensor, or N tensors or `Delta`s of one shape; not modified.
        weights: one factor per expert, by which its delta is multiplied beforehand (`average` divides by
            their mean, so that it stays an average); all 1 by default.
        context: names that seed random masks, and the layout of stacked or transposed matrices.
        **parameters: the method's own.

    Returns:
        The merged delta M, before scale: a tensor where the deltas were tensors, a `Delta` otherwise.

    Raises:
        MethodError: unknown method or parameter, no deltas, or deltas that don't fit together.
    """
    chosen = get(name)
    if isinstance(deltas, Tensor) and deltas.ndim == 0:
        raise MethodError("the deltas lack their expert axis", got="a scalar", expected="an (N, …) tensor")
    items = as_deltas(deltas)
    _check_deltas(items)
    chosen.check_experts(len(items))
    values = chosen.validate(parameters)
    values = chosen.resolve(values, all(isinstance(delta, LowRank) for delta in items))
    if weights is not None:
        if len(weights) != len(items):
            raise MethodError("one weight per expert is needed", got=len(weights), expected=len(items))
        items = chosen.weighted(items, weights)
    context = context or Context()
    survey = chosen.survey(len(items), values)
    if survey is not None and context.survey is None:
        while survey.begin_pass():
            survey.observe(items, context)
            survey.end_pass()
        context = replace(context, survey=survey.result())
    merged = chosen.apply(items, values, context)
    return merged.dense() if all(isinstance(delta, Tensor) for delta in deltas) else merged


def _check_deltas(deltas: Sequence[Delta]) -> None:
    if not deltas:
        raise MethodError("no deltas to merge", expected="one delta per expert, at least one")
    for index, delta in enumerate(deltas):
        if delta.shape != deltas[0].shape:
            raise MethodError(
                "the deltas have different shapes",
                where=f"delta {index}",
                got=delta.shape,
                expected=deltas[0].shape,
            )
        if not all(bool(torch.isfinite(part).all()) for part in delta.parts):
            raise MethodError("a delta holds NaN or infinity", where=f"delta {index}", expected="finite")
