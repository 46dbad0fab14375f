"""The merge as a checkpoint: slices and whole tensors from the inputs through their methods into shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.deltas import LowRank
from optmerge.engine.output.folder import OutputFolder
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.planning.cost import FACTOR_SLICE_ELEMENTS, slice_limit
from optmerge.engine.running.budget import Budget
from optmerge.engine.running.compute import (
    Surveys,
    add_factors,
    merged_low_rank,
    merged_weights,
    row_slices,
    survey_tensor,
)
from optmerge.engine.running.fused import Each, FusedMerge, FusedSlices
from optmerge.engine.running.pool import Pool
from optmerge.engine.running.sources import Rows, Sources, all_finite
from optmerge.errors import CheckpointError
from optmerge.methods import get

ONE_THREAD_ELEMENTS = 1 << 23
"""Tensors up to this size are merged by one thread each, others slice by slice by all: threads that work on
one tensor wait for each other after each pass over it."""

SYNC_SECONDS = 5.0
"""How much work a crash may cost at most, besides the tensors at hand."""

Progress = Callable[[TensorPlan, int], None]
"""Called with a tensor and the bytes written for it, when it is done."""


def write_merged_checkpoint(
    plan: Plan,
    sources: Sources,
    surveys: Surveys,
    pool: Pool,
    budget: Budget,
    folder: OutputFolder,
    progress: Progress | None,
) -> None:
    """Writes every tensor that an earlier run hasn't written, and the index."""
    resume = any(folder.staging.glob("*.safetensors*"))
    written = sorted(folder.written)
    with CheckpointWriter(folder.staging, plan.shards, resume=resume, written=written) as writer:
        _Merge(
            plan,
            sources,
            surveys,
            writer,
            pool,
            budget,
            folder,
            progress,
            FusedSlices(plan, sources, surveys),
        ).run()
        writer.finish()


@dataclass
class _Log:
    """Tensors written since the journal's last line."""

    names: list[str] = field(default_factory=list)
    synced: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Merge:
    """A dense merge under way: everything open that its tensors need."""

    plan: Plan
    sources: Sources
    surveys: Surveys
    writer: CheckpointWriter
    pool: Pool
    budget: Budget
    folder: OutputFolder
    progress: Progress | None
    fused: FusedSlices
    log: _Log = field(default_factory=_Log)

    def run(self) -> None:
        """Slices first, tensor by tensor; then whole tensors side by side; then those that want all cores."""
        sliced: list[TensorPlan] = []
        side_by_side: list[TensorPlan] = []
        alone: list[TensorPlan] = []
        for tensor in self.plan.tensors:
            if tensor.action == "alias" or not self.writer.needs(tensor.name):
                continue
            method = get(self.plan.use(tensor).name) if tensor.action == "merge" else None
            if method is None or method.streaming(self.plan.use(tensor).parameters) is not None:
                sliced.append(tensor)
            else:
                (side_by_side if method.resources.one_core else alone).append(tensor)
        large = [tensor for tensor in sliced if prod(tensor.shape) > ONE_THREAD_ELEMENTS]
        for tensor in large:
            self._write_sliced(tensor, self.pool.each)
        self.pool.each(
            lambda tensor: self._write_sliced(tensor, one_after_another),
            (tensor for tensor in sliced if prod(tensor.shape) <= ONE_THREAD_ELEMENTS),
        )
        with Pool(self.budget.whole_tensors, self.sources.device) as pool:
            pool.each(self._merge_whole, side_by_side)
        for tensor in alone:
            self._merge_whole(tensor)

    def _merge_whole(self, tensor: TensorPlan) -> None:
        merged = merged_low_rank(self.plan, tensor, self.sources, self.surveys)
        if isinstance(merged, LowRank):
            self._add_factors(tensor, merged)
        else:
            self._merge_rows(tensor, self.surveys, None)
        self._done(tensor)

    def _add_factors(self, tensor: TensorPlan, merged: LowRank) -> None:
        """Writes W₀ + s·up·down some rows at a time, so that no more of the tensor is held."""
        width = prod(tensor.shape[1:])
        for rows in row_slices(tensor, FACTOR_SLICE_ELEMENTS):
            first, last = rows or (0, tensor.shape[0])
            part = LowRank(merged.up[first:last], merged.down)
            values = add_factors(self.sources.base(tensor, rows), part, self.plan.use(tensor).scale)
            self.writer.write_flat(tensor.name, first * width, _stored(values, tensor).flatten())

    def _write_sliced(self, tensor: TensorPlan, each: Each) -> None:
        if tensor.action == "copy":
            self._copy(tensor, each)
        else:
            elements = slice_limit(tensor.name, self.sources.inputs, self.budget.slice_elements)
            slices = list(row_slices(tensor, elements))
            fused = self.fused.fused(tensor)
            if fused is None or not self._merge_fused(tensor, fused, slices, each):
                self._merge_slices(tensor, slices, each)
        self._done(tensor)

    def _merge_fused(self, tensor: TensorPlan, fused: FusedMerge, slices: list[Rows], each: Each) -> bool:
        """Whether it could be; nothing has been written otherwise."""
        ready = self.fused.prepared(tensor, fused, slices, each)
        if ready is None:
            return False

        def merge(rows: Rows) -> None:
            merged = self.fused.merged(tensor, ready, rows)
            if merged is None:  # the general way says what isn't finite
                self._merge_rows(tensor, self._with_survey(tensor, ready.context.survey), rows)
                return
            start = rows[0] * prod(tensor.shape[1:]) if rows else 0
            self.writer.write_flat(tensor.name, start, _stored(merged, tensor))

        each(merge, slices)
        return True

    def _merge_slices(self, tensor: TensorPlan, slices: list[Rows], each: Each) -> None:
        found = survey_tensor(self.plan, tensor, self.sources, each, slices)
        surveys = self._with_survey(tensor, found)
        each(lambda rows: self._merge_rows(tensor, surveys, rows), slices)

    def _with_survey(self, tensor: TensorPlan, found: Any) -> Surveys:
        """The surveys, with what was found in this tensor alone."""
        if found is None or tensor.group is None:
            return self.surveys
        return {**self.surveys, tensor.group: found}

    def _merge_rows(self, tensor: TensorPlan, surveys: Surveys, rows: Rows) -> None:
        merged = _stored(merged_weights(self.plan, tensor, self.sources, surveys, rows), tensor)
        start = rows[0] * prod(tensor.shape[1:]) if rows else 0
        self.writer.write_flat(tensor.name, start, merged.flatten())

    def _copy(self, tensor: TensorPlan, each: Each) -> None:
        adapted = self.sources.adapted(tensor)
        if adapted is not None:
            self.writer.write(tensor.name, _stored(adapted, tensor))
            return
        size, step, target = prod(tensor.shape), self.budget.slice_elements, DTYPES[tensor.out_dtype].torch

        def copy(span: Rows) -> None:
            start, stop = span or (0, size)
            values = self.sources.raw(tensor, start, stop)
            self.writer.write_flat(tensor.name, start, _stored(values, tensor, check=values.dtype != target))

        starts = range(0, max(1, size), step)  # an empty tensor is written too
        each(copy, [(start, min(size, start + step)) for start in starts])

    def _done(self, tensor: TensorPlan) -> None:
        """Tells of a tensor that is written; now and then makes what is written last through a crash."""
        with self.log.lock:
            self.log.names.append(tensor.name)
            if self.progress is not None:
                self.progress(tensor, prod(tensor.shape) * DTYPES[tensor.out_dtype].itemsize)
            if time.monotonic() - self.log.synced > SYNC_SECONDS:
                self.writer.sync()
                self.folder.record(self.log.names)
                self.log.names, self.log.synced = [], time.monotonic()


def one_after_another(action: Callable[[Rows], None], slices: Iterable[Rows]) -> None:
    """An `Each` for a thread that has a tensor to itself."""
    for rows in slices:
        action(rows)


def _stored(values: Tensor, tensor: TensorPlan, *, check: bool = True) -> Tensor:
    """In the output's type, on the CPU; refused where that type can't hold the values."""
    stored = values.to("cpu", DTYPES[tensor.out_dtype].torch)
    if check and stored.is_floating_point() and not all_finite(stored):
        raise CheckpointError(
            f"{tensor.name} isn't finite in {str(stored.dtype).removeprefix('torch.')}",
            got=f"values up to {float(values.abs().max()):.3g}",
            expected=f"at most {torch.finfo(stored.dtype).max:.3g}",
            hint="choose another dtype or a smaller scale",
        )
    return stored
