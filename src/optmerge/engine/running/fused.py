"""Elementwise merges of full checkpoints on the bytes as they are stored, into memory that is used again.

What most merges are: the same bits as the general way, without a temporary. Whatever isn't plainly that, a
NaN included, goes the general way. What happens to an entry is the method's own affair (`CompiledMerge`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.planning.inputs import FullExpert
from optmerge.engine.running.compute import Surveys, context_of
from optmerge.engine.running.pool import Each
from optmerge.engine.running.sources import Rows, Sources
from optmerge.methods import Context
from optmerge.methods._fast.stored import CompiledMerge, StoredDeltas, StoredTensor

FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class FusedMerge:
    """How one tensor is merged.

    Args:
        compiled: the method's loops.
        context: names of the tensor and the experts, and what is known of the whole tensor or model.
        factors: (experts,) float32, what each delta is multiplied by.
        from_base: whether it merges deltas; weights otherwise.
        scale: factor on the merged delta.
        stored: type that slices are held in: bfloat16 if every input is stored so, else float32.
    """

    compiled: CompiledMerge
    context: Context
    factors: NDArray[np.float32]
    from_base: bool
    scale: float
    stored: torch.dtype


class FusedSlices:
    """Merges tensors, slice by slice; each thread keeps its buffers for its next slice.

    Args:
        plan: what is merged how.
        sources: open inputs.
        surveys: what surveys of the whole model found.
    """

    def __init__(self, plan: Plan, sources: Sources, surveys: Surveys) -> None:
        self._plan, self._sources, self._surveys = plan, sources, surveys
        self._local = threading.local()

    def fused(self, tensor: TensorPlan) -> FusedMerge | None:
        """How a tensor is merged here; None where it has to go the general way."""
        use, inputs = self._plan.use(tensor), self._sources.inputs
        method = use.method
        streaming = method.streaming(use.parameters)
        if streaming is None or streaming.compiled is None or self._sources.device.type != "cpu":
            return None
        stored = {tensor.dtype}
        for expert in inputs.experts:
            if not isinstance(expert, FullExpert):
                return None
            if expert.changes(tensor.name):
                stored.add(expert.checkpoint.tensors[expert.tensors[tensor.name]].dtype)
        if not stored <= set(FLOATS) or tensor.out_dtype not in FLOATS:
            return None
        return FusedMerge(
            compiled=streaming.compiled,
            context=context_of(self._plan, tensor, self._surveys, None),
            factors=np.array(method.expert_factors(use.weights), dtype=np.float32),
            from_base=not method.merges_weights,
            scale=use.scale * use.factor(tensor.depth) if isinstance(use.scale, float) else 1.0,
            stored=torch.bfloat16 if stored == {"BF16"} else torch.float32,
        )

    def prepared(
        self, tensor: TensorPlan, fused: FusedMerge, slices: list[Rows], each: Each
    ) -> FusedMerge | None:
        """The same with what must be known of the whole tensor; None where something isn't finite."""

        def read(start: int, stop: int) -> StoredDeltas:
            return self._deltas(tensor, fused, (start, stop))

        def over_all(action: Callable[[StoredDeltas], None]) -> None:
            each(lambda rows: action(read(*_span(tensor, rows))), slices)

        whole = StoredTensor(prod(tensor.shape), len(fused.factors), read, over_all)
        context = fused.compiled.prepare(whole, fused.context)
        return None if context is None else replace(fused, context=context)

    def merged(self, tensor: TensorPlan, fused: FusedMerge, rows: Rows) -> Tensor | None:
        """A slice, flat, in bfloat16 or float32, valid until this thread's next; None where not finite."""
        span = _span(tensor, rows)
        deltas = self._deltas(tensor, fused, span)
        out = self._buffer("out", 1, span[1] - span[0], _held(DTYPES[tensor.out_dtype].torch))[0]
        finite = fused.compiled.merge(deltas, fused.context, fused.scale, _array(out))
        return out if finite else None

    def _deltas(self, tensor: TensorPlan, fused: FusedMerge, span: tuple[int, int]) -> StoredDeltas:
        """Elements [start, stop) of every input, in this thread's buffer."""
        start, stop = span
        experts = self._sources.inputs.experts
        stored = self._buffer("stored", len(experts) + int(fused.from_base), stop - start, fused.stored)
        if fused.from_base:
            self._sources.fill(None, tensor.name, start, stored[0])
        for row, expert in zip(stored[int(fused.from_base) :], experts, strict=True):
            full = expert if isinstance(expert, FullExpert) and expert.changes(tensor.name) else None
            self._sources.fill(full, tensor.name, start, row)
        return StoredDeltas(_array(stored), fused.from_base, fused.factors, start=start)

    def _buffer(self, name: str, rows: int, size: int, dtype: torch.dtype) -> Tensor:
        """Memory of this thread for (rows, size) values; what it held before is lost."""
        kept: dict[str, Tensor] = self._local.__dict__
        needed = rows * size * dtype.itemsize
        if name not in kept or kept[name].numel() < needed:
            kept[name] = torch.empty(needed, dtype=torch.uint8)
        return kept[name][:needed].view(dtype).view(rows, size)


def _span(tensor: TensorPlan, rows: Rows) -> tuple[int, int]:
    """First and last-plus-one element of some rows."""
    width = prod(tensor.shape[1:])
    return (rows[0] * width, rows[1] * width) if rows else (0, prod(tensor.shape))


def _held(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.bfloat16 else torch.float32


def _array(values: Tensor) -> NDArray[Any]:
    """The same memory for the compiled loops, which know no bfloat16."""
    array: NDArray[Any] = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array
