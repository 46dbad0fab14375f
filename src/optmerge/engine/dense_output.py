"""The merge as a checkpoint: slices and whole tensors from the inputs through their methods into shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.budget import Budget
from optmerge.engine.compute import Surveys, merged_weights, row_slices, survey_tensor
from optmerge.engine.cost import slice_limit
from optmerge.engine.fused import LinearMerge, LinearSlices, as_linear
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.pool import Pool
from optmerge.engine.sources import Rows, Sources, all_finite
from optmerge.engine.state import OutputFolder
from optmerge.errors import CheckpointError
from optmerge.methods import get

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
        _Merge(plan, sources, surveys, writer, pool, budget, folder, progress, LinearSlices(sources)).run()
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
    linear: LinearSlices
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
            if method is None or method.streams(self.plan.use(tensor).parameters):
                sliced.append(tensor)
            else:
                (side_by_side if method.one_core else alone).append(tensor)
        for tensor in sliced:
            if tensor.action == "copy":
                self._copy(tensor)
            else:
                self._merge_slices(tensor)
            self._done(tensor)
        with Pool(self.budget.whole_tensors) as pool:
            pool.each(self._merge_whole, side_by_side)
        for tensor in alone:
            self._merge_whole(tensor)

    def _merge_whole(self, tensor: TensorPlan) -> None:
        self._merge_rows(tensor, self.surveys, None)
        self._done(tensor)

    def _merge_slices(self, tensor: TensorPlan) -> None:
        elements = self.budget.slice_elements
        surveys = self.surveys
        found = survey_tensor(self.plan, tensor, self.sources, self.pool, elements)
        if found is not None and tensor.group is not None:
            surveys = {**surveys, tensor.group: found}
        slices = row_slices(tensor, slice_limit(tensor.name, self.sources.inputs, elements))
        linear = as_linear(self.plan, tensor, self.sources)
        if linear is not None:
            self.pool.each(lambda rows: self._merge_linear(tensor, linear, rows), slices)
        else:
            self.pool.each(lambda rows: self._merge_rows(tensor, surveys, rows), slices)

    def _merge_linear(self, tensor: TensorPlan, linear: LinearMerge, rows: Rows) -> None:
        merged = self.linear.merged(tensor, linear, rows)
        if merged is None:  # the general way says what isn't finite
            self._merge_rows(tensor, self.surveys, rows)
            return
        self.writer.write_flat(tensor.name, rows[0] * prod(tensor.shape[1:]) if rows else 0, merged)

    def _merge_rows(self, tensor: TensorPlan, surveys: Surveys, rows: Rows) -> None:
        merged = _stored(merged_weights(self.plan, tensor, self.sources, surveys, rows), tensor)
        start = rows[0] * prod(tensor.shape[1:]) if rows else 0
        self.writer.write_flat(tensor.name, start, merged.flatten())

    def _copy(self, tensor: TensorPlan) -> None:
        adapted = self.sources.adapted(tensor)
        if adapted is not None:
            self.writer.write(tensor.name, _stored(adapted, tensor))
            return
        size, step, target = prod(tensor.shape), self.budget.slice_elements, DTYPES[tensor.out_dtype].torch

        def copy(start: int) -> None:
            values = self.sources.raw(tensor, start, min(size, start + step))
            self.writer.write_flat(tensor.name, start, _stored(values, tensor, check=values.dtype != target))

        self.pool.each(copy, range(0, max(1, size), step))  # an empty tensor is written too

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
