"""A method applied: to the matrices that a tensor holds, to one tensor, to whatever deltas a caller has."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, as_deltas, mean
from optmerge.errors import MethodError
from optmerge.methods._context import Context, Layout
from optmerge.methods._method import Method, Parameters
from optmerge.methods._modifier import (
    JOINT,
    MODIFIERS,
    Merge,
    ModifiedMethod,
    ModifierUse,
    modified_resources,
    modifier_use,
)
from optmerge.methods._registry import registered_method

MatrixMethod = Callable[[Sequence[Delta], Context], Delta]

_DIMENSIONS = {"matrix": 2, "transposed": 2, "stack": 3, "transposed_stack": 3}


def get(name: str, uses: Sequence[ModifierUse] = ()) -> Method:
    """The method of that name; `auto` is the default one, and `tsv+svc` is `tsv` with a modifier around it.

    Args:
        name: of a method, and of modifiers with their defaults.
        uses: further modifiers, around those.

    Raises:
        MethodError: there is no such method or modifier; with the closest name.
    """
    own, *modifiers = (part.strip() for part in name.split(JOINT))
    method = registered_method(own)
    return modified(method, (*(modifier_use(each, {}) for each in modifiers), *uses))


@overload
def merge_deltas(
    name: str,
    deltas: Tensor | Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Tensor: ...


@overload
def merge_deltas(
    name: str,
    deltas: Sequence[Delta],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Delta: ...


@overload
def merge_deltas(
    name: str,
    deltas: Sequence[Tensor | Delta],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Tensor | Delta: ...


def merge_deltas(
    name: str,
    deltas: Tensor | Sequence[Tensor | Delta],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Tensor | Delta:
    """Merges the task vectors of one tensor.

    Args:
        name: a method's name, as in `optmerge methods`.
        deltas: an (N, …) float tensor, or N tensors or `Delta`s of one shape on one device; not modified.
        weights: one factor per expert, by which its delta is multiplied beforehand (`average` divides by
            their mean, so that it stays an average); all 1 by default.
        context: names that seed random masks, and the layout of stacked or transposed matrices.
        **parameters: the method's own.

    Returns:
        The merged delta M, before scale: a tensor where all deltas were tensors, a `Delta` otherwise. float64
        where one delta is, float32 otherwise.

    Raises:
        MethodError: unknown method or parameter, no deltas, deltas that don't fit together, or a method that
            returns something other than a delta.
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
    merged = apply(chosen, items, values, _surveyed(chosen, items, values, context or Context()))
    return merged.dense() if all(isinstance(delta, Tensor) for delta in deltas) else merged


def _surveyed(method: Method, deltas: Sequence[Delta], parameters: Parameters, context: Context) -> Context:
    """The context with what the method's survey finds in these deltas, where it makes one."""
    streaming = method.streaming(parameters)
    if streaming is None or streaming.survey is None or context.survey is not None:
        return context
    survey = streaming.survey(len(deltas))
    while survey.begin_pass():
        survey.observe(deltas, context)
        survey.end_pass()
    return replace(context, survey=survey.result())


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


def apply(method: Method, deltas: Sequence[Delta], parameters: Parameters, context: Context) -> Delta:
    """Merged delta of one tensor, before scale.

    Args:
        method: what merges.
        deltas: of one shape, type and device; multiplied by their experts' weights already.
        parameters: validated. What is still `auto` in them is resolved by the function, from the deltas.
        context: with what the method's survey found, where it has one.

    Raises:
        MethodError: the method refuses, or returns something other than a delta or a tensor.
    """

    def merge(deltas: Sequence[Delta], context: Context) -> Delta:
        extra = {"context": context} if method.takes_context else {}
        return _as_delta(method.function(deltas, **parameters, **extra), method)

    return by_matrices(merge, deltas, context) if method.granularity == "matrix" else merge(deltas, context)


def modified(method: Method, uses: Sequence[ModifierUse]) -> Method:
    """The method with modifiers around it, each around what stands before; the method itself without any.

    The modifiers work on every matrix that a tensor holds, as matrix methods do. What holds no matrix is
    merged by the method alone.
    """
    if not uses:
        return method
    inner = method.inner if isinstance(method, ModifiedMethod) else method
    every = (*(method.modifiers if isinstance(method, ModifiedMethod) else ()), *uses)

    def function(deltas: Sequence[Delta], *, context: Context | None = None, **parameters: Any) -> Delta:
        context = context or Context()

        def merge(deltas: Sequence[Delta], context: Context) -> Delta:
            return _around(inner, every, parameters, context)(deltas)

        if _layout(deltas[0].shape, context) == "vector":
            return _alone(inner, deltas, parameters, context)
        return by_matrices(merge, deltas, context)

    function.__doc__ = inspect.getdoc(inner.function)
    declared = modified_resources(inner, every)
    fields = {field.name: getattr(declared, field.name) for field in dataclasses.fields(declared)}
    return ModifiedMethod(**{**fields, "function": function}, inner=inner, modifiers=every)


def _around(inner: Method, uses: Sequence[ModifierUse], parameters: Parameters, context: Context) -> Merge:
    """What merges the deltas of one matrix by the method and the modifiers."""
    if not uses:
        return lambda deltas: _alone(inner, deltas, parameters, context)
    *before, use = uses
    chosen = MODIFIERS.get(use.name)
    extra = {"context": context} if chosen.takes_context else {}
    merge = _around(inner, before, parameters, context)
    return lambda deltas: chosen.function(deltas, merge, **use.parameters, **extra)


def _alone(method: Method, deltas: Sequence[Delta], parameters: Parameters, context: Context) -> Delta:
    return apply(method, deltas, parameters, _surveyed(method, deltas, parameters, context))


def _as_delta(found: object, method: Method) -> Delta:
    if isinstance(found, Dense | LowRank):
        return found
    if isinstance(found, Tensor):
        return Dense(found)
    raise MethodError(
        f"{method.name} returned {type(found).__name__}, expected Delta or Tensor",
        where=f"method {method.name}",
        hint="return a tensor of the deltas' shape, or optmerge.deltas.Dense or LowRank",
    )


def by_matrices(merge: MatrixMethod, deltas: Sequence[Delta], context: Context) -> Delta:
    """Applies a matrix method to every matrix of a tensor; the mean delta where it holds none."""
    shape = deltas[0].shape
    layout = _layout(shape, context)
    if layout == "vector":
        return mean(deltas)
    inner = replace(context, layout="matrix")
    if layout == "matrix":
        return merge(deltas, inner)
    if layout == "transposed":
        return _transposed(merge([_transposed(delta) for delta in deltas], inner))
    if layout == "flatten":
        return _reshaped(merge([_flattened(delta) for delta in deltas], inner), shape)
    each = replace(context, layout="transposed" if layout == "transposed_stack" else "matrix")
    stacks = [delta.dense() for delta in deltas]
    merged = stacks[0].new_empty(shape)
    for index in range(shape[0]):
        merged[index] = by_matrices(merge, [Dense(stack[index]) for stack in stacks], each).dense()
    return Dense(merged)


def _layout(shape: tuple[int, ...], context: Context) -> Layout:
    """The layout asked for, or the one of so many dimensions; raises `MethodError` where it can't be."""
    if len(shape) < 2 or 0 in shape:
        return "vector"
    by_dimensions: dict[int, Layout] = {2: "matrix", 3: "stack"}
    layout = context.layout or by_dimensions.get(len(shape), "flatten")
    if len(shape) != _DIMENSIONS.get(layout, len(shape)):
        raise MethodError(
            f"the layout {layout!r} doesn't fit the tensor",
            where=context.tensor or "context.layout",
            got=f"shape {shape}",
            expected=f"{_DIMENSIONS[layout]} dimensions",
            hint="use the layout flatten or vector",
        )
    return layout


def _transposed(delta: Delta) -> Delta:
    if isinstance(delta, LowRank):
        return LowRank(delta.down.T, delta.up.T)
    return Dense(delta.values.T.contiguous())


def _flattened(delta: Delta) -> Delta:
    if isinstance(delta, LowRank):
        return replace(delta, full_shape=None)
    return Dense(delta.values.flatten(start_dim=1))


def _reshaped(delta: Delta, shape: tuple[int, ...]) -> Delta:
    if isinstance(delta, LowRank):
        return replace(delta, full_shape=shape)
    return Dense(delta.values.reshape(shape))
