"""Sums and averages of bfloat16 checkpoints in one compiled loop per slice, into memory that is used again.

What most merges of full checkpoints are, and all they do: the same bits as the general way, without a
temporary. Whatever isn't plainly that, a NaN included, goes the general way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optmerge.engine.inputs import FullExpert
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.sources import Rows, Sources
from optmerge.methods import get
from optmerge.methods.kernels import sum_stored

BFLOAT16 = "BF16"


@dataclass(frozen=True)
class LinearMerge:
    """A tensor's merge as one sum.

    Args:
        factors: of the experts, float32.
        from_base: it sums deltas, not weights.
        divisor: of the sum.
        scale: of the divided sum.
    """

    factors: Any
    from_base: bool
    divisor: float
    scale: float


def as_linear(plan: Plan, tensor: TensorPlan, sources: Sources) -> LinearMerge | None:
    """The sum that a tensor's merge is; None where it isn't one, or not of bfloat16 alone."""
    use = plan.use(tensor)
    method = get(use.name)
    types = {tensor.dtype, tensor.out_dtype}
    if method.linear is None or types != {BFLOAT16} or sources.device.type != "cpu":
        return None
    for expert in sources.inputs.experts:
        if not isinstance(expert, FullExpert) or not expert.changes(tensor.name):
            return None
        if expert.checkpoint.tensors[expert.tensors[tensor.name]].dtype != BFLOAT16:
            return None
    factors = np.array(method.expert_factors(use.weights), dtype=np.float32)
    return LinearMerge(factors, not method.affine, method.linear(len(factors)), use.scale)


class LinearSlices:
    """Merges slices of one tensor; each thread keeps its buffers for the next.

    Args:
        sources: open inputs, on the CPU.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._local = threading.local()

    def merged(self, tensor: TensorPlan, linear: LinearMerge, rows: Rows) -> Tensor | None:
        """A slice, flat, in bfloat16, valid until this thread's next; None where something isn't finite."""
        width = prod(tensor.shape[1:])
        start, stop = (rows[0] * width, rows[1] * width) if rows else (0, prod(tensor.shape))
        count, size = len(self._sources.inputs.experts), stop - start
        buffers = self._buffers(count, size)
        stored, out = buffers["stored"][:, :size], buffers["out"][:size]
        if linear.from_base:
            self._sources.fill_base(tensor.name, start, stored[0])
        for row, expert in zip(stored[1:], self._sources.inputs.experts, strict=True):
            assert isinstance(expert, FullExpert), "as_linear lets no other through"
            self._sources.fill_expert(expert, tensor.name, start, row)
        finite = sum_stored(
            stored.view(torch.uint16).numpy(),
            linear.factors,
            linear.from_base,
            np.float32(linear.divisor),
            np.float32(linear.scale),
            buffers["work"].numpy()[:, :size],
            buffers["work"].numpy().view(np.uint32)[:, :size],
            out.view(torch.uint16).numpy(),
        )
        return out if finite else None

    def _buffers(self, experts: int, size: int) -> Mapping[str, Tensor]:
        kept: dict[str, Tensor] = getattr(self._local, "buffers", {})
        if not kept or kept["out"].numel() < size:
            kept = {
                "stored": torch.empty(1 + experts, size, dtype=torch.bfloat16),
                "work": torch.empty(3, size),
                "out": torch.empty(size, dtype=torch.bfloat16),
            }
            self._local.buffers = kept
        return kept
