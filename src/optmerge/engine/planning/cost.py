"""What a merge costs, estimated from shapes: bytes, memory and floating-point work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.plan import Action, Cost, MethodUse, Routed, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, FullExpert, Inputs, shape_of
from optmerge.engine.planning.stacks import stack_place
from optmerge.methods import Case
from optmerge.methods._scales import sketch_width
from optmerge.recipe import AUTO, Recipe

SLICE_ELEMENTS = 1 << 18
"""Elements of a tensor that an elementwise method holds at a time."""

FACTOR_SLICE_ELEMENTS = 1 << 20
"""The same for tensors with low-rank deltas, whatever the budget: how a product of factors rounds depends on
how many rows are asked for at once, and a budget may not change the result."""

AUTO_SLICE_ELEMENTS = 1 << 16
"""Elements of a tensor that are looked at together for a scale that is chosen; few, since no budget may
change where the slices end."""

BLOCK_BYTES = 8 << 20
"""Of rows of tokens that are read at a time, in float64."""

PURSUIT_BYTES = 32 << 20
"""Of rows that combinations hold at a time."""

TABLES_BY_TOKEN = 11
"""Whole float32 tables that an adapter's change of rows by token holds at its height (measured)."""

AROUND_BYTES = 16 << 20
"""What threads, their stacks and the allocator take around the tensors (measured)."""

FRAGMENTATION = 1.25
"""What the allocator holds for each byte of dense tensors of several shapes in turn (measured)."""

_FLOAT32 = 4


def cost_of(
    tensors: Sequence[TensorPlan], uses: Sequence[MethodUse | None], inputs: Inputs, recipe: Recipe
) -> Cost:
    """Adds up every tensor."""
    read = written = peak = whole = sliced = beside = 0
    cores = torch.get_num_threads()
    where, largest, flops = "", "", 0.0
    for tensor in tensors:
        if tensor.action is Action.ALIAS:
            continue
        written += prod(tensor.shape) * DTYPES[tensor.out_dtype].itemsize
        use = uses[tensor.method_index] if tensor.method_index is not None else None
        tensor_read, tensor_peak, tensor_flops = _tensor_cost(tensor, use, inputs, recipe)
        read, flops = read + tensor_read, flops + tensor_flops
        streams = use is None or use.method.streaming(use.parameters) is not None
        in_slices = streams and not _is_taken_apart(tensor, inputs, recipe)
        side_by_side = cores if in_slices or (use is not None and use.method.resources.one_core) else 1
        made, rows = _made_whole(tensor, use, inputs), _new_rows(tensor.name, inputs)
        if (tensor_peak + made) * side_by_side + rows > peak:
            peak, where = (tensor_peak + made) * side_by_side + rows, tensor.name
        if use is not None and streams and use.scale == AUTO and _look_bytes(tensor, inputs) > whole:
            whole, largest = _look_bytes(tensor, inputs), tensor.name
        if in_slices and not inputs.factors(tensor.name):
            sliced, beside = max(sliced, tensor_peak), max(beside, made * side_by_side + rows)
            least = made * side_by_side + rows
        else:
            least = tensor_peak + made + rows
        if least > whole:
            whole, largest = least, tensor.name
    if recipe.output.format == "adapter":
        written = _adapter_bytes(tensors, inputs, recipe)
    return Cost(read, written, peak + AROUND_BYTES, where, whole, largest, sliced, beside, flops)


PART_ARRAYS = 9
"""Float32 arrays of a tensor's size while the parts of a routed output are made of it, beside one for each
expert's change: the base, the merged tensor, what it lost, and what a singular value decomposition works
in."""


def with_parts(cost: Cost, routed: Routed, tensors: Sequence[TensorPlan], inputs: Inputs) -> Cost:
    """A merge's cost with that of the parts and the router of a routed output."""
    read, flops, where, peak = 0, cost.flops, "", 0
    arrays = PART_ARRAYS + len(inputs.experts)
    for tensor in (each for each in tensors if each.name in routed.tensors):
        size = prod(tensor.shape)
        read += size * (DTYPES[tensor.dtype].itemsize + DTYPES[tensor.out_dtype].itemsize)
        read += sum(expert.input_bytes(tensor.name) for expert in inputs.experts)
        flops += len(inputs.experts) * 8.0 * size * min(tensor.shape)
        needed = arrays * size * _FLOAT32
        if tensor.name in routed.readers:  # float64 products of the router's inputs, and their eigenvectors
            needed += (len(inputs.experts) + 4) * routed.width**2 * 8
        if needed > peak:
            peak, where = needed, tensor.name
    largest = peak > cost.whole_tensor_bytes
    side_by_side = peak * torch.get_num_threads() + AROUND_BYTES
    return replace(
        cost,
        bytes_read=cost.bytes_read + read,
        bytes_written=cost.bytes_written + routed.nbytes,
        peak_bytes=max(cost.peak_bytes, side_by_side),
        peak_tensor=where if side_by_side > cost.peak_bytes else cost.peak_tensor,
        whole_tensor_bytes=peak if largest else cost.whole_tensor_bytes,
        whole_tensor=where if largest else cost.whole_tensor,
        flops=flops,
    )


def slice_limit(name: str, inputs: Inputs, slice_elements: int = SLICE_ELEMENTS) -> int:
    """Elements of a tensor to hold at a time."""
    return FACTOR_SLICE_ELEMENTS if inputs.factors(name) else slice_elements


def _tensor_cost(
    tensor: TensorPlan, use: MethodUse | None, inputs: Inputs, recipe: Recipe
) -> tuple[int, int, float]:
    """Bytes read, peak bytes, and operations for one tensor."""
    size = prod(tensor.shape)
    stored = size * DTYPES[tensor.dtype].itemsize
    if use is None:
        return stored, min(stored, SLICE_ELEMENTS * 8), 0.0
    method, count = use.method, len(inputs.experts)
    full = not any(isinstance(expert, AdapterExpert) for expert in inputs.experts)
    base_read = 0 if method.merges_weights and full else stored
    streaming = method.streaming(use.parameters)
    surveyed = streaming.passes if streaming is not None else 0
    passes = 1 + surveyed
    if (
        use.scale == AUTO
    ):  # a look at every tensor for its experts' lengths, and for M where slices are merged
        within_tensor = streaming is not None and streaming.scope == "tensor"
        passes += 1 + (surveyed if within_tensor else 0)
    read = passes * (base_read + sum(expert.input_bytes(tensor.name) for expert in inputs.experts))
    taken_apart = _is_taken_apart(tensor, inputs, recipe)
    in_slices = streaming is not None and not taken_apart
    held = min(size, slice_limit(tensor.name, inputs)) if in_slices else size
    case = case_of(tensor, use, count)
    rows, columns = case.m, case.n
    sides, rank = rows + size // max(1, rows), _joint_rank(tensor.name, inputs)
    if rank is not None and rank * sides < size and method.resources.keeps_factors(use.parameters):
        # The factors, float64 bases of their spaces and what they are made from, a slice of W₀ (measured).
        arrays = 6.5 if recipe.output.format == "adapter" else 4.2
        peak = int(rank * sides * (_FLOAT32 + 8 * arrays)) + 12 * FACTOR_SLICE_ELEMENTS
        return read, peak, 2.0 * size * rank + 8.0 * sides * rank**2
    deltas = 0
    for expert in inputs.experts:
        own = expert.rank(tensor.name) if isinstance(expert, AdapterExpert) else None
        deltas += held if own is None else min(own * sides, size)
    workspace = method.resources.workspace(case) if deltas >= held else 2.0
    peak = int((deltas + held * (2 + workspace)) * _FLOAT32 * FRAGMENTATION) + min(stored, held * 8)
    if taken_apart:  # one matrix, both its singular bases, and what LAPACK works in
        peak += 6 * rows * columns * _FLOAT32
    matrices = size / max(1, rows * columns)
    return read, peak, matrices * method.resources.work(case)


def case_of(tensor: TensorPlan, use: MethodUse, experts: int) -> Case:
    """The merge of one of the matrices that a tensor holds."""
    rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    columns = tensor.shape[-1] if tensor.shape else 1
    if tensor.layout in ("transposed", "transposed_stack"):
        rows, columns = columns, rows
    elif tensor.layout == "flatten":
        rows, columns = tensor.shape[0], prod(tensor.shape[1:])
    return Case(experts, rows, columns, use.parameters)


def tolerance_of(tensor: TensorPlan, use: MethodUse, inputs: Inputs) -> float:
    """Relative error up to which a tensor's dense matrices may be solved approximately; 0 where exactly."""
    if tensor.action is not Action.MERGE or len(tensor.shape) < 2:
        return 0.0
    case, rank = case_of(tensor, use, len(inputs.experts)), _joint_rank(tensor.name, inputs)
    in_factor_space = rank is not None and rank < min(case.m, case.n)
    return 0.0 if in_factor_space else use.method.resources.tolerance(case)


def _is_taken_apart(tensor: TensorPlan, inputs: Inputs, recipe: Recipe) -> bool:
    """Whether a dense delta is made of the whole tensor, to be written as factors."""
    if recipe.output.format != "adapter" or len(tensor.shape) < 2 or tensor.action is not Action.MERGE:
        return False
    return any(
        isinstance(each, FullExpert) or each.rank(tensor.name) is None
        for each in inputs.experts
        if each.changes(tensor.name)
    )


def _made_whole(tensor: TensorPlan, use: MethodUse | None, inputs: Inputs) -> int:
    """What adapters need to make their deltas of a tensor that aren't plain factors, however it is sliced.

    The adapter's own tensor, the base's, the change and their sum are float32 and whole. Where rows meet by
    token, both are also put into the output's rows.
    """
    total = 0
    for expert in inputs.experts:
        used = use is not None or tensor.source == expert.name
        if not used or not isinstance(expert, AdapterExpert) or not expert.changes(tensor.name):
            continue
        if expert.has_factors_alone(tensor.name) or expert.tensors[tensor.name].expert is not None:
            continue
        own = prod(shape_of(expert, tensor.name)) * _FLOAT32
        total += (TABLES_BY_TOKEN if _by_token(tensor.name, inputs) else 4) * own
    return total


def _by_token(name: str, inputs: Inputs) -> bool:
    return inputs.tokens is not None and name in inputs.tokens.tensors


def _new_rows(name: str, inputs: Inputs) -> int:
    """What the rows of tokens that the base lacks need, while they are made and until they are written."""
    tokens = inputs.tokens
    if tokens is None or name not in tokens.tensors or not tokens.added:
        return 0
    stored = tokens.stored.tensors[name]
    rows = len(tokens.added) * (stored.numel // max(1, stored.shape[0])) * _FLOAT32
    total = 6 * rows + 2 * BLOCK_BYTES  # two float32 tensors of them, and two in float64
    if tokens.unknown == "omp":
        total += 2 * PURSUIT_BYTES + BLOCK_BYTES
    if tokens.unknown != "mean":  # an adapter's table is made whole, one adapter after the other
        total += max(
            (
                5 * prod(shape_of(expert, name)) * _FLOAT32
                for expert in inputs.experts
                if isinstance(expert, AdapterExpert) and expert.changes(name)
            ),
            default=0,
        )
    return total


def _look_bytes(tensor: TensorPlan, inputs: Inputs) -> int:
    """What one tensor's slices, their M and their sketches need while a scale is chosen."""
    size = prod(tensor.shape)
    inputs_side = size // max(1, tensor.shape[0]) if tensor.shape else 1
    slice_bytes = min(size, slice_limit(tensor.name, inputs, AUTO_SLICE_ELEMENTS)) * _FLOAT32
    sketches = 2 * sketch_width(tensor.shape, tensor.layout) * 2 * max(inputs_side, *tensor.shape[:1], 1)
    return (3 * len(inputs.experts) + 8) * slice_bytes + sketches * 8


def _joint_rank(name: str, inputs: Inputs) -> int | None:
    """Σ ranks of the experts' deltas of a tensor; None where one is dense."""
    ranks = [each.rank(name) if isinstance(each, AdapterExpert) else None for each in inputs.experts]
    return None if None in ranks else sum(rank for rank in ranks if rank is not None)


def _adapter_bytes(tensors: Sequence[TensorPlan], inputs: Inputs, recipe: Recipe) -> int:
    total = 0
    for tensor in tensors:
        if tensor.action is not Action.MERGE or len(tensor.shape) < 2:
            continue
        place = stack_place(tensor.name, inputs)
        if place is not None and place.piece.expert is None:
            experts, *sides_of_one = place.shape
            most = min(sides_of_one)
            total += (
                experts * sum(sides_of_one) * min(recipe.output.rank or place.rank or most, most) * _FLOAT32
            )
            continue
        size = prod(tensor.shape)
        sides = tensor.shape[0] + size // tensor.shape[0]
        ranks = [each.rank(tensor.name) for each in inputs.experts if isinstance(each, AdapterExpert)]
        exact = sum(rank for rank in ranks if rank is not None)
        total += sides * min(recipe.output.rank or exact, size // max(1, sides // 2)) * _FLOAT32
    return total
