"""Elementwise merges of full checkpoints on the bytes as they are stored, into memory that is used again.

What most merges are: the same bits as the general way, without a temporary. Whatever isn't plainly that, a
NaN included, goes the general way.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.planning.inputs import FullExpert
from optmerge.engine.running.compute import Surveys
from optmerge.engine.running.pool import Each
from optmerge.engine.running.sources import Rows, Sources
from optmerge.methods import get
from optmerge.methods._fast.bracket import Bracket, sample_size
from optmerge.methods._fast.stored import Drops, Entrywise, StoredDeltas
from optmerge.methods.ties import TrimThresholds

FLOATS = ("BF16", "F16", "F32")
BLOCKS = 32
"""Places a sample is taken from, evenly spaced."""


@dataclass(frozen=True)
class FusedMerge:
    """How one tensor is merged.

    Args:
        rule: what is done to each entry.
        factors: of the experts, float32.
        drops: of the experts.
        from_base: it merges deltas, not weights.
        scale: of the merged delta.
        stored: the type that the slices are held in: the experts' own if that is bfloat16, else float32.
        trim: thresholds of a survey of the whole model.
    """

    rule: Entrywise
    factors: NDArray[np.float32]
    drops: Drops
    from_base: bool
    scale: float
    stored: torch.dtype
    trim: TrimThresholds | None


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
        method = get(use.name)
        if method.entrywise is None or self._sources.device.type != "cpu":
            return None
        stored = {tensor.dtype}
        for expert in inputs.experts:
            if not isinstance(expert, FullExpert):
                return None
            if expert.changes(tensor.name):
                stored.add(expert.checkpoint.tensors[expert.tensors[tensor.name]].dtype)
        if not stored <= set(FLOATS) or tensor.out_dtype not in FLOATS:
            return None
        rule = method.entrywise(len(inputs.experts), use.parameters)
        found = self._surveys.get(tensor.method_index) if tensor.method_index is not None else None
        return FusedMerge(
            rule,
            np.array(method.expert_factors(use.weights), dtype=np.float32),
            Drops.of(rule, tensor.name, self._plan.expert_names),
            not method.affine,
            use.scale,
            torch.bfloat16 if stored == {"BF16"} else torch.float32,
            found if isinstance(found, TrimThresholds) else None,
        )

    def thresholds(
        self, tensor: TensorPlan, fused: FusedMerge, slices: list[Rows], each: Each
    ) -> TrimThresholds | None:
        """What TIES must know of a tensor beforehand; None for sums, and where something isn't finite."""
        if fused.trim is not None or fused.rule.keep is None:
            return fused.trim
        magnitudes = self._magnitudes(tensor, fused, fused.rule.keep, slices, each)
        if magnitudes is None:
            return None
        sums: list[int] = []

        def count(rows: Rows) -> None:
            sums.append(self._deltas(tensor, fused, _span(tensor, rows)).sum_of_signs(magnitudes))

        each(count, slices)
        return TrimThresholds(magnitudes, float(np.sign(sum(sums))))

    def merged(
        self, tensor: TensorPlan, fused: FusedMerge, trim: TrimThresholds | None, rows: Rows
    ) -> Tensor | None:
        """A slice, flat, in bfloat16 or float32, valid until this thread's next; None where not finite."""
        span = _span(tensor, rows)
        deltas = self._deltas(tensor, fused, span)
        out = self._buffer("out", 1, span[1] - span[0], _held(DTYPES[tensor.out_dtype].torch))[0]
        if trim is None:
            finite = deltas.sum(fused.rule.divisor, fused.scale, _array(out))
        else:
            finite = deltas.mean_of_agreeing(trim.magnitudes, trim.majority or 0.0, fused.scale, _array(out))
        return out if finite else None

    def _magnitudes(
        self, tensor: TensorPlan, fused: FusedMerge, keep: float, slices: list[Rows], each: Each
    ) -> tuple[float, ...] | None:
        """Each expert's threshold; None where something isn't finite."""
        size = prod(tensor.shape)
        bracket = Bracket(len(fused.factors), size, keep)
        finite: list[bool] = []

        def count(rows: Rows) -> None:
            finite.append(bracket.count(self._deltas(tensor, fused, _span(tensor, rows))))

        if sample_size(size) and not bracket.done:
            for span in _sample(size):
                bracket.count(self._deltas(tensor, fused, span))
            bracket.expect()
        while not bracket.done:
            each(count, slices)
            if not all(finite):
                return None
            bracket.narrow()
        return bracket.thresholds

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
        return StoredDeltas(_array(stored), fused.from_base, fused.factors, fused.drops, start)

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


def _sample(size: int) -> list[tuple[int, int]]:
    """Ranges of elements to estimate from, over the tensor's whole length."""
    block = max(1, sample_size(size) // BLOCKS)
    starts = (round(place * (size - block) / (BLOCKS - 1)) for place in range(BLOCKS))
    return [(start, start + block) for start in starts]


def _held(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.bfloat16 else torch.float32


def _array(values: Tensor) -> NDArray[Any]:
    """The same memory for the compiled loops, which know no bfloat16."""
    array: NDArray[Any] = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array
