"""How far the experts moved each tensor, from every entry; each tensor alone decides its figures.

A tensor is measured right after it is written, while its bytes are still in the page cache, in blocks that
neither a memory budget nor the number of threads changes. So the figures of a resumed merge are those of one
that wasn't interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.changes import is_kept, is_read_whole, sums_of_squares
from optmerge.engine.plan import Action, Plan, Squared, Squares, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, FullExpert
from optmerge.engine.running.pool import Each, Pool, one_after_another
from optmerge.engine.running.sources import Sources
from optmerge.methods._fast.kernels import sum_squares

BLOCK_ELEMENTS = 1 << 16
SPAN_ELEMENTS = 1 << 20
"""Elements of one piece of work for a thread."""

_COMPILED = {"BF16": torch.bfloat16, "F16": torch.float32, "F32": torch.float32}

Sums = NDArray[np.float64]
"""(experts + 1,) ΣW₀², then each expert's Σ(W − W₀)²; NaN where it isn't finite."""


class ChangeMeter:
    """Measures one tensor at a time; safe to use from many threads.

    Args:
        plan: its sample says which tensors needn't be read.
        sources: open inputs.
    """

    def __init__(self, plan: Plan, sources: Sources) -> None:
        self._plan, self._sources = plan, sources

    def measured(self, tensor: TensorPlan, each: Each) -> dict[str, Squares]:
        """How far each expert that holds a tensor moved it, by expert; nothing for a tied name."""
        experts = [one for one in self._sources.inputs.experts if one.changes(tensor.name)]
        if tensor.action is Action.ALIAS or not experts:
            return {}
        read = [expert for expert in experts if self._is_read(expert, tensor)]
        sums = self._sums(tensor, read, each)
        changes = {expert.name: float(change) for expert, change in zip(read, sums[1:], strict=True)}
        changes |= self._products(tensor, each)
        found = {expert.name: self._squares(expert, tensor, changes) for expert in experts}
        return {
            name: Squares(one.change, float(sums[0]), one.exact or name in changes)
            for name, one in found.items()
        }

    def from_factors(self, tensor: TensorPlan, each: Each) -> dict[str, Squares]:
        """The same of adapters, without a look at the base: what isn't a delta of theirs stays sampled."""
        changes = self._products(tensor, each)
        experts = [one for one in self._sources.inputs.experts if one.changes(tensor.name)]
        found = {expert.name: self._squares(expert, tensor, changes) for expert in experts}
        return {} if tensor.action is Action.ALIAS else found

    def _products(self, tensor: TensorPlan, each: Each) -> dict[str, float]:
        """‖BA‖² of each adapter that has a delta of a tensor, by expert."""
        found: dict[str, float] = {}

        def multiply(expert: AdapterExpert) -> None:
            found[expert.name] = self._sources.adapter_delta(expert, tensor).squared_norm()

        experts = [one for one in self._sources.inputs.experts if isinstance(one, AdapterExpert)]
        # By a thread like the others': how a product rounds depends on its cores.
        each(multiply, [one for one in experts if one.changes(tensor.name) and _is_made(one, tensor)])
        return found

    def _squares(self, expert: AnyExpert, tensor: TensorPlan, changes: Mapping[str, float]) -> Squares:
        """What was found, with the sampled norm of the base; the sample where nothing was."""
        sampled = self._plan.squares[expert.name][tensor.name]
        change = changes.get(expert.name)
        if change is None:
            return sampled
        return replace(sampled, change=change if math.isfinite(change) else None)

    def _is_read(self, expert: AnyExpert, tensor: TensorPlan) -> bool:
        whole = expert.stored_whole(tensor.name) is not None
        sampled = self._plan.squares[expert.name][tensor.name]
        return whole and is_read_whole(tensor, expert.name, sampled)

    def _sums(self, tensor: TensorPlan, experts: Sequence[AnyExpert], each: Each) -> Sums:
        size, span, step = math.prod(tensor.shape), SPAN_ELEMENTS, BLOCK_ELEMENTS
        if any(isinstance(one, FullExpert) and tensor.name in one.swapped for one in experts):
            # Any part of a swapped matrix takes all of it: matrix by matrix, each is read once.
            span = step = max(1, size // (tensor.shape[0] if len(tensor.shape) > 2 else 1))
        starts = range(0, size, span)
        found: dict[int, list[Sums]] = {}

        def add(start: int) -> None:
            stop = min(size, start + span)
            blocks = [(at, min(stop, at + step)) for at in range(start, stop, step)]
            found[start] = [self._block(tensor, experts, *block) for block in blocks]

        each(add, starts)
        rows = np.array([sums for start in starts for sums in found[start]]).reshape(-1, len(experts) + 1)
        return np.array([math.fsum(column) if np.isfinite(column).all() else math.nan for column in rows.T])

    def _block(self, tensor: TensorPlan, experts: Sequence[AnyExpert], start: int, stop: int) -> Sums:
        """The sums of some entries; compiled where all is of a usual type and finite."""
        inputs: list[AnyExpert | None] = [None, *experts]
        dtypes = {self._sources.stored_dtype(one, tensor.name) for one in inputs}
        sums = np.empty(len(inputs))
        if dtypes <= _COMPILED.keys():
            held = {_COMPILED[dtype] for dtype in dtypes}
            stored = torch.empty(
                len(inputs), stop - start, dtype=held.pop() if len(held) == 1 else torch.float32
            )
            for row, one in zip(stored, inputs, strict=True):
                self._sources.fill(one, tensor.name, start, row)
            bits = stored.view(torch.uint16) if stored.dtype == torch.bfloat16 else stored
            sum_squares(bits.numpy(), sums)
            if np.isfinite(sums).all():
                return sums
        rows = []
        for one in inputs:
            dtype = DTYPES[self._sources.stored_dtype(one, tensor.name)].torch
            rows.append(torch.empty(stop - start, dtype=dtype))
            self._sources.fill(one, tensor.name, start, rows[-1])
        pairs = [sums_of_squares(rows[0], row) for row in rows]
        return np.array([pairs[0][1], *(math.nan if pair[0] is None else pair[0] for pair in pairs[1:])])


def _is_made(expert: AdapterExpert, tensor: TensorPlan) -> bool:
    """Whether an adapter's delta is made: one that isn't factors takes the memory of a whole tensor."""
    if expert.stored_whole(tensor.name) is not None:
        return False
    small = len(tensor.shape) < 2 or expert.has_factors_alone(tensor.name)
    return small or is_kept(tensor, expert.name)


def measure_all(plan: Plan, sources: Sources, pool: Pool) -> Squared:
    """How far the experts moved every tensor, for an output in which the base isn't written.

    Where all experts are adapters the base isn't read: the changes are exact, the base's norms sampled.
    """
    meter = ChangeMeter(plan, sources)
    found: dict[str, dict[str, Squares]] = {}
    adapters = [one for one in sources.inputs.experts if isinstance(one, AdapterExpert)]
    without_base = len(adapters) == len(plan.expert_names)

    def measure(tensor: TensorPlan) -> None:
        take = meter.from_factors if without_base else meter.measured
        found[tensor.name] = take(tensor, one_after_another)

    pool.each(measure, plan.tensors)
    return by_expert(plan, found)


def by_expert(plan: Plan, measured: Mapping[str, Mapping[str, Squares]]) -> dict[str, dict[str, Squares]]:
    """Expert → tensor → squares, of tensor → expert → squares, in the order of the plan."""
    names = [tensor.name for tensor in plan.tensors if tensor.name in measured]
    return {
        expert: {name: measured[name][expert] for name in names if expert in measured[name]}
        for expert in plan.expert_names
    }
