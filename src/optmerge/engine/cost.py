"""What a merge costs, estimated from shapes: bytes, memory and floating-point work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.inputs import AdapterExpert, Inputs
from optmerge.methods import get
from optmerge.recipe import Recipe

if TYPE_CHECKING:
    from optmerge.engine.plan import MethodUse, TensorPlan

SLICE_ELEMENTS = 1 << 18
"""Elements of a tensor that an elementwise method holds at a time."""

FACTOR_SLICE_ELEMENTS = 1 << 20
"""The same for tensors with low-rank deltas, whatever the budget: how a product of factors rounds depends on
how many rows are asked for at once, and a budget may not change the result."""

_FLOAT32 = 4


@dataclass(frozen=True)
class Cost:
    """Estimates.

    Args:
        bytes_read: from the inputs, passes of a survey included.
        bytes_written: of weights.
        peak_bytes: anonymous memory for tensors, beside the interpreter and its libraries.
        peak_tensor: where that peak is reached.
        whole_tensor_bytes: the part of the peak that smaller slices can't lower.
        flops: floating-point operations.
    """

    bytes_read: int
    bytes_written: int
    peak_bytes: int
    peak_tensor: str
    whole_tensor_bytes: int
    flops: float


def cost_of(
    tensors: Sequence[TensorPlan], uses: Sequence[MethodUse | None], inputs: Inputs, recipe: Recipe
) -> Cost:
    """Adds up every tensor."""
    read = written = peak = whole = 0
    where, flops = "", 0.0
    for tensor in tensors:
        if tensor.action == "alias":
            continue
        written += prod(tensor.shape) * DTYPES[tensor.out_dtype].itemsize
        use = uses[tensor.group] if tensor.group is not None else None
        tensor_read, tensor_peak, tensor_flops = _tensor_cost(tensor, use, inputs)
        read, flops = read + tensor_read, flops + tensor_flops
        if tensor_peak > peak:
            peak, where = tensor_peak, tensor.name
        if use is not None and (not get(use.name).streams(use.parameters) or inputs.factors(tensor.name)):
            whole = max(whole, tensor_peak)
    if recipe.output.format == "adapter":
        written = _adapter_bytes(tensors, inputs, recipe)
    return Cost(read, written, peak, where, whole, flops)


def slice_limit(name: str, inputs: Inputs, slice_elements: int = SLICE_ELEMENTS) -> int:
    """Elements of a tensor to hold at a time."""
    return FACTOR_SLICE_ELEMENTS if inputs.factors(name) else slice_elements


def _tensor_cost(tensor: TensorPlan, use: MethodUse | None, inputs: Inputs) -> tuple[int, int, float]:
    """Bytes read, peak bytes, and operations for one tensor."""
    size = prod(tensor.shape)
    stored = size * DTYPES[tensor.dtype].itemsize
    if use is None:
        return stored, min(stored, SLICE_ELEMENTS * 8), 0.0
    method, count = get(use.name), len(inputs.experts)
    full = not any(isinstance(expert, AdapterExpert) for expert in inputs.experts)
    base_read = 0 if method.affine and full else stored
    passes = 1 + method.passes(use.parameters)
    read = passes * (base_read + sum(expert.input_bytes(tensor.name) for expert in inputs.experts))
    held = min(size, slice_limit(tensor.name, inputs)) if method.streams(use.parameters) else size
    deltas = 0
    for expert in inputs.experts:
        rank = expert.rank(tensor.name) if isinstance(expert, AdapterExpert) else None
        factors = None if rank is None else rank * (tensor.shape[0] + size // max(tensor.shape[0], 1))
        deltas += held if factors is None else min(factors, size)
    workspace = method.workspace(count) if deltas >= held else 2.0
    peak = int((deltas + held * (2 + workspace)) * _FLOAT32) + min(stored, held * 8)
    rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    columns = tensor.shape[-1] if tensor.shape else 1
    matrices = size / max(1, rows * columns)
    return read, peak, matrices * method.work(rows, columns, count)


def _adapter_bytes(tensors: Sequence[TensorPlan], inputs: Inputs, recipe: Recipe) -> int:
    total = 0
    for tensor in tensors:
        if tensor.action != "merge" or len(tensor.shape) < 2:
            continue
        size = prod(tensor.shape)
        sides = tensor.shape[0] + size // tensor.shape[0]
        ranks = [each.rank(tensor.name) for each in inputs.experts if isinstance(each, AdapterExpert)]
        exact = sum(rank for rank in ranks if rank is not None)
        total += sides * min(recipe.output.rank or exact, size // max(1, sides // 2)) * _FLOAT32
    return total
