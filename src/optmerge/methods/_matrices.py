"""The matrices that a tensor holds: a method for one matrix, applied to a tensor of any layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optmerge.deltas import Delta, Dense, LowRank, mean
from optmerge.errors import MethodError
from optmerge.methods._context import Context, Layout

MatrixMethod = Callable[[Sequence[Delta], Context], Delta]

_DIMENSIONS = {"matrix": 2, "transposed": 2, "stack": 3, "transposed_stack": 3}


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
