"""The merge as a checkpoint: slices and whole tensors from the inputs through their methods into shards."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.deltas import LowRank
from optmerge.engine.output.folder import OutputFolder
from optmerge.engine.output.identities import Identities
from optmerge.engine.plan import PARAMETER_KINDS, Action, Plan, Progress, Squared, Squares, TensorPlan
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
from optmerge.engine.running.fused import FusedMerge, FusedSlices
from optmerge.engine.running.measuring import ChangeMeter, by_expert
from optmerge.engine.running.pool import Each, Pool, one_after_another
from optmerge.engine.running.scales import Scales
from optmerge.engine.running.sources import Rows, Sources, all_finite
from optmerge.errors import CheckpointError, MergeWarning
from optmerge.recipe import BASE

ONE_THREAD_ELEMENTS = 1 << 23
"""Tensors up to this size are merged by one thread each, others slice by slice by all: threads that work on
one tensor wait for each other after each pass over it."""

SYNC_SECONDS = 5.0
"""How much work a crash may cost at most, besides the tensors at hand."""


def write_merged_checkpoint(
    plan: Plan,
    sources: Sources,
    surveys: Surveys,
    scales: Scales,
    pool: Pool,
    budget: Budget,
    folder: OutputFolder,
    identities: Identities,
    progress: Progress | None,
) -> Squared:
    """Writes every tensor that an earlier run hasn't written, and the index; returns what experts changed.

    Slices come first, large tensors one by one and small ones side by side; then whole tensors side by side;
    then those that want all cores.
    """
    resume = any(folder.staging.glob("*.safetensors*"))
    written = sorted(folder.written)
    with CheckpointWriter(folder.staging, plan.shards, resume=resume, written=written) as writer:
        tensors = TensorWriter(plan, sources, surveys, scales, writer, budget.slice_elements)
        journal = Journal(writer, folder, identities, scales.by_tensor, progress)
        meter = ChangeMeter(plan, sources)

        def write_sliced(tensor: TensorPlan, each: Each) -> None:
            tensors.write_sliced(tensor, each)
            journal.note(tensor, meter.measured(tensor, each))

        def write_whole(tensor: TensorPlan, each: Each = one_after_another) -> None:
            tensors.write_whole(tensor)
            journal.note(tensor, meter.measured(tensor, each))

        def measure(tensor: TensorPlan) -> None:
            journal.measured[tensor.name] = meter.measured(tensor, one_after_another)

        queues = _queued(plan, writer, scales)
        for tensor in queues.large:
            write_sliced(tensor, pool.each)
        pool.each(lambda tensor: write_sliced(tensor, one_after_another), queues.small)
        with Pool(budget.whole_tensors, sources.device) as whole:
            whole.each(write_whole, queues.side_by_side)
        for tensor in queues.alone:
            write_whole(tensor, pool.each)
        # What an earlier run has written without noting its figures.
        pool.each(measure, [tensor for tensor in plan.tensors if tensor.name not in journal.measured])
        writer.finish()
    return by_expert(plan, journal.measured)


@dataclass(frozen=True)
class Queues:
    """Tensors still to be written, by how they are merged, each in the order of the plan.

    Args:
        large: slice by slice, by all threads.
        small: slice by slice, by one thread each.
        side_by_side: whole, by one thread each.
        alone: whole, by all cores.
    """

    large: list[TensorPlan] = field(default_factory=list)
    small: list[TensorPlan] = field(default_factory=list)
    side_by_side: list[TensorPlan] = field(default_factory=list)
    alone: list[TensorPlan] = field(default_factory=list)


def _queued(plan: Plan, writer: CheckpointWriter, scales: Scales) -> Queues:
    """What is left to be done.

    A tensor in a file that an interrupted run has completed is merged again for its scale alone where the
    journal doesn't know that.
    """
    queues = Queues()
    for tensor in plan.tensors:
        if tensor.action is Action.ALIAS:
            continue
        if not writer.needs(tensor.name) and scales.knows(plan, tensor):
            continue
        method = plan.use(tensor).method if tensor.action is Action.MERGE else None
        if method is None or method.streaming(plan.use(tensor).parameters) is not None:
            (queues.large if prod(tensor.shape) > ONE_THREAD_ELEMENTS else queues.small).append(tensor)
        else:
            (queues.side_by_side if method.resources.one_core else queues.alone).append(tensor)
    return queues


class Journal:
    """Tensors written since the journal's last line; safe to use from many threads.

    Args:
        writer: what writes them.
        folder: keeps the journal.
        identities: knows digests of the inputs' tensors, which the journal keeps beside the names.
        scales: tensor → scale that was chosen for it, which the provenance of a resumed merge must know.
        progress: told of each tensor.

    Attributes:
        measured: tensor → expert → how far the expert moved it, an earlier run's included.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        folder: OutputFolder,
        identities: Identities,
        scales: Mapping[str, float],
        progress: Progress | None,
    ) -> None:
        self._writer, self._folder, self._progress = writer, folder, progress
        self._identities, self._scales = identities, scales
        self.measured: dict[str, dict[str, Squares]] = dict(folder.measured)
        self._names: list[str] = []
        self._synced = time.monotonic()
        self._lock = threading.Lock()

    def note(self, tensor: TensorPlan, measured: dict[str, Squares]) -> None:
        """Tells of a tensor that is written; now and then makes what is written last through a crash."""
        with self._lock:
            self._names.append(tensor.name)
            self.measured[tensor.name] = measured
            if self._progress is not None:
                self._progress(tensor, prod(tensor.shape) * DTYPES[tensor.out_dtype].itemsize)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._writer.sync()
                noted = {name: self.measured[name] for name in self._names}
                scales = {name: self._scales[name] for name in self._names if name in self._scales}
                self._folder.record(noted, scales, self._identities.known(self._names))
                self._names, self._synced = [], time.monotonic()


class TensorWriter:
    """Merges or copies one tensor at a time into an open checkpoint; safe to use from many threads.

    Args:
        plan: what is merged how.
        sources: open inputs.
        surveys: what surveys of the whole model found.
        scales: those that are chosen.
        writer: the open output.
        slice_elements: elements of a slice.
    """

    def __init__(
        self,
        plan: Plan,
        sources: Sources,
        surveys: Surveys,
        scales: Scales,
        writer: CheckpointWriter,
        slice_elements: int,
    ) -> None:
        self._plan, self._sources, self._surveys, self._writer = plan, sources, surveys, writer
        self._scales, self._slice_elements = scales, slice_elements
        self._fused = FusedSlices(plan, sources, surveys)
        self._nonfinite: set[str] = set()
        self._lock = threading.Lock()

    def write_whole(self, tensor: TensorPlan) -> None:
        """Writes a tensor that is merged in one piece."""
        found = merged_low_rank(self._plan, tensor, self._sources, self._surveys, self._scales.of)
        if found is not None and isinstance(found[0], LowRank):
            self._add_factors(tensor, found[0], found[1])
        else:
            self._merge_rows(tensor, self._surveys, None)

    def write_sliced(self, tensor: TensorPlan, each: Each) -> None:
        """Writes a tensor that is copied, or merged slice by slice."""
        if tensor.action is Action.COPY:
            self._copy(tensor, each)
            return
        elements = slice_limit(tensor.name, self._sources.inputs, self._slice_elements)
        slices = list(row_slices(tensor, elements))
        fused = self._fused.fused(tensor)
        if fused is None or not self._merge_fused(tensor, fused, slices, each):
            found = survey_tensor(self._plan, tensor, self._sources, each, slices)
            surveys = self._with_survey(tensor, found)
            each(lambda rows: self._merge_rows(tensor, surveys, rows), slices)

    def _add_factors(self, tensor: TensorPlan, merged: LowRank, scale: float) -> None:
        """Writes W₀ + s·up·down some rows at a time, so that no more of the tensor is held."""
        for rows in row_slices(tensor, FACTOR_SLICE_ELEMENTS):
            first, last = rows or (0, tensor.shape[0])
            part = LowRank(merged.up[first:last], merged.down)
            base = self._sources.base(tensor, rows)
            self._write_rows(tensor, rows, add_factors(base, part, scale))

    def _merge_fused(self, tensor: TensorPlan, fused: FusedMerge, slices: list[Rows], each: Each) -> bool:
        """Whether it could be; nothing has been written otherwise."""
        ready = self._fused.prepared(tensor, fused, slices, each)
        if ready is None:
            return False

        def merge(rows: Rows) -> None:
            merged = self._fused.merged(tensor, ready, rows)
            if merged is None:  # the general way says what isn't finite
                self._merge_rows(tensor, self._with_survey(tensor, ready.context.survey), rows)
            else:
                self._write_rows(tensor, rows, merged)

        each(merge, slices)
        return True

    def _with_survey(self, tensor: TensorPlan, found: Any) -> Surveys:
        """The surveys, with what was found in this tensor alone."""
        if found is None or tensor.method_index is None:
            return self._surveys
        return {**self._surveys, tensor.method_index: found}

    def _merge_rows(self, tensor: TensorPlan, surveys: Surveys, rows: Rows) -> None:
        merged = merged_weights(self._plan, tensor, self._sources, surveys, self._scales.of, rows)
        self._write_rows(tensor, rows, merged)

    def _write_rows(self, tensor: TensorPlan, rows: Rows, values: Tensor) -> None:
        if not self._writer.needs(tensor.name):
            return
        start = rows[0] * prod(tensor.shape[1:]) if rows else 0
        self._writer.write_flat(tensor.name, start, _stored(values, tensor).flatten())

    def _copy(self, tensor: TensorPlan, each: Each) -> None:
        adapted = self._sources.adapted(tensor)
        if adapted is not None:
            self._writer.write(tensor.name, _stored(adapted, tensor))
            return

        def copy(span: tuple[int, int]) -> None:
            values = self._sources.raw(tensor, *span)
            other_type = values.dtype != DTYPES[tensor.out_dtype].torch
            if all_finite(values):
                stored = _stored(values, tensor, check=other_type)
            else:
                self._let_pass(tensor)
                stored = _stored(values, tensor, check=False)
                if other_type:  # what is finite has to stay so
                    _stored(values.float().nan_to_num(0.0, 0.0, 0.0), tensor)
            self._writer.write_flat(tensor.name, span[0], stored)

        each(copy, self._spans(tensor))

    def _spans(self, tensor: TensorPlan) -> list[tuple[int, int]]:
        """Ranges of elements that a tensor is copied in; an empty tensor has one too, and so is written."""
        size, step = prod(tensor.shape), self._slice_elements
        return [(start, min(size, start + step)) for start in range(0, max(1, size), step)]

    def _let_pass(self, tensor: TensorPlan) -> None:
        """Refuses a copied tensor that holds NaN or infinity; not a constant of the base, nor if allowed.

        The whole tensor is counted, so that the message doesn't depend on how it is cut.
        """
        with self._lock:
            if tensor.name in self._nonfinite:
                return
            nan = infinite = 0
            for span in self._spans(tensor):
                values = self._sources.raw(tensor, *span)
                values = (torch.view_as_real(values) if values.is_complex() else values).float()
                nan += int(values.isnan().sum())
                infinite += int(values.isinf().sum())
            self._nonfinite.add(tensor.name)
        if tensor.kind not in PARAMETER_KINDS and tensor.source == BASE and not nan:
            return
        what, file = self._sources.copied_from(tensor)
        if not self._plan.recipe.allow_nonfinite:
            raise CheckpointError(
                f"{what} holds NaN or infinity",
                where=file,
                got=f"{nan} NaN and {infinite} infinite among {prod(tensor.shape)} values",
                expected="finite values",
                hint="find a sound copy of this checkpoint; or, to copy the tensor as it is, write "
                "`allow_nonfinite: true` in the recipe",
            )
        found = f"{nan} NaN and {infinite} infinite values"
        warnings.warn(f"{what} holds {found}: copied as it is (allow_nonfinite)", MergeWarning, stacklevel=1)


def _stored(values: Tensor, tensor: TensorPlan, *, check: bool = True) -> Tensor:
    """In the output's type, on the CPU; refused where that type can't hold the values."""
    stored = values.to("cpu", DTYPES[tensor.out_dtype].torch)
    if check and stored.is_floating_point() and not all_finite(stored):
        raise CheckpointError(
            f"the merged tensor isn't finite in {str(stored.dtype).removeprefix('torch.')}",
            where=tensor.name,
            got=f"values up to {float(values.abs().max()):.3g}",
            expected=f"at most {torch.finfo(stored.dtype).max:.3g}",
            hint="write in the recipe a wider dtype or a smaller scale, as in dtype: float32",
        )
    return stored
