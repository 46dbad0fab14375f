"""Open inputs: what a merge reads, one tensor or a few of its rows at a time, checked to be finite."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from optmerge.checkpoints.bfloat16 import widened
from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.reader import Reader
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.engine.plan import TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, FullExpert, Inputs
from optmerge.engine.running.token_rows import TokenReader
from optmerge.errors import CheckpointError
from optmerge.recipe import BASE

Rows = tuple[int, int] | None
"""First and last-plus-one row of a tensor's first dimension; None for all of it."""


class Sources:
    """The inputs of a merge with their files open; a context manager, safe to read from by many threads.

    Args:
        inputs: as opened from headers.
        device: where tensors that are merged go.
        digests: by model, told of what is read of the base and of full experts.
    """

    def __init__(
        self, inputs: Inputs, device: str = "cpu", digests: Mapping[str, TensorDigests] | None = None
    ) -> None:
        digests = digests or {}
        self.inputs = inputs
        self.device = torch.device(device)
        self._stack = ExitStack()
        stored = inputs.base.checkpoint if inputs.tokens is None else inputs.tokens.stored
        self._base: Reader = self._stack.enter_context(stored.reader(digests.get(BASE)))
        self._experts: dict[str, Reader] = {
            expert.name: self._stack.enter_context(expert.open(digests.get(expert.name)))
            for expert in inputs.experts
        }
        self._rows = (
            TokenReader(inputs, inputs.tokens, self._base, self._experts)
            if inputs.tokens is not None
            else None
        )
        self._factors: dict[str, tuple[tuple[str, torch.dtype], LowRank]] = {}
        self._lock = threading.Lock()  # held to look into `_factors`, not while a delta is made

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reader(self, model: str) -> Reader:
        """The open reader of the base or of an expert, by name."""
        return self._base if model == BASE else self._experts[model]

    def raw(self, tensor: TensorPlan, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a flattened tensor that is copied, as stored in its source; unchecked."""
        return self._flat(self._donor(tensor), tensor.name, start, stop)

    def copied_from(self, tensor: TensorPlan) -> tuple[str, Path]:
        """What to call the stored tensor that is copied in a message, and its file."""
        expert = self._donor(tensor)
        if expert is not None:
            return _expert_tensor(expert, expert.tensors[tensor.name])
        return f"tensor {tensor.name} of the base", self.inputs.base.info(tensor.name).file

    def _donor(self, tensor: TensorPlan) -> FullExpert | None:
        """The expert whose stored tensor is copied; None where it is the base's."""
        expert = None if tensor.source == BASE else self.inputs.expert(tensor.source)
        return expert if isinstance(expert, FullExpert) and expert.changes(tensor.name) else None

    def adapted(self, tensor: TensorPlan) -> Tensor | None:
        """A tensor that is copied from an adapter, changed by it; None where it isn't."""
        expert = None if tensor.source == BASE else self.inputs.expert(tensor.source)
        if not isinstance(expert, AdapterExpert) or not expert.changes(tensor.name):
            return None
        base = self.base(tensor)
        return base + self._delta(expert, tensor, base, None).dense()

    def base(self, tensor: TensorPlan, rows: Rows = None) -> Tensor:
        """A tensor of the base for merging: float32 or better, finite."""
        values = self._read(None, tensor, rows)
        info = self.inputs.base.info(tensor.name)
        return self._mergeable(values, f"tensor {tensor.name} of the base", info.file)

    def fill(self, expert: AnyExpert | None, name: str, start: int, out: Tensor) -> None:
        """Elements of a flattened tensor from `start` on into `out`, in its type, unchecked.

        Args:
            expert: the expert that is read, which stores the tensor whole; None for the base.
            name: the base's name of the tensor.
            start: first element that is read.
            out: flat, on the CPU; of the stored type, or of one to convert to.
        """
        if self._by_token(name):
            out.copy_(self._flat(expert, name, start, start + out.numel()))
            return
        reader, own = self._base, name
        if expert is not None:
            reader, own = self._experts[expert.name], expert.stored_whole(name) or name
        stored = DTYPES[reader.dtype(own)].torch
        if isinstance(expert, FullExpert) and name in expert.swapped:
            out.copy_(self._flat(expert, name, start, start + out.numel()))
        elif out.dtype == stored:
            reader.fill(own, start, out)
        else:
            out.copy_(reader.read_flat(own, start, start + out.numel()))

    def stored_dtype(self, expert: AnyExpert | None, name: str) -> str:
        """The safetensors name of the type that `fill` reads."""
        if expert is None:
            return self._base.dtype(name)
        return self._experts[expert.name].dtype(expert.stored_whole(name) or name)

    def weights(self, tensor: TensorPlan, rows: Rows = None) -> list[Delta]:
        """Every full expert's own weights, in the place of deltas, for methods that merge them as such."""
        return [
            Dense(self._expert(expert, tensor, rows))
            if expert.changes(tensor.name)
            else Dense(self.base(tensor, rows))
            for expert in self.inputs.experts
            if isinstance(expert, FullExpert)
        ]

    def deltas(self, tensor: TensorPlan, base: Tensor, rows: Rows = None) -> list[Delta]:
        """Every expert's delta, in the order of the recipe.

        Args:
            tensor: the tensor.
            base: the same rows of the base.
            rows: rows of the tensor; None for all of it.
        """
        return [self._delta(expert, tensor, base, rows) for expert in self.inputs.experts]

    def adapter_delta(self, expert: AdapterExpert, tensor: TensorPlan) -> Delta:
        """An adapter's delta of a whole tensor, float32."""
        return self._adapter_delta(expert, tensor, torch.float32)

    def low_rank_deltas(self, tensor: TensorPlan) -> list[LowRank] | None:
        """Every expert's delta as factors, without a look at the base; None where one isn't."""
        wide = self.inputs.base.info(tensor.name).dtype == "F64"
        deltas: list[LowRank] = []
        for expert in self.inputs.experts:
            if not isinstance(expert, AdapterExpert) or expert.rank(tensor.name) is None:
                return None
            delta = self._adapter_delta(expert, tensor, torch.float64 if wide else torch.float32)
            if not isinstance(delta, LowRank):
                return None
            deltas.append(delta)
        return deltas

    def _delta(
        self, expert: FullExpert | AdapterExpert, tensor: TensorPlan, base: Tensor, rows: Rows
    ) -> Delta:
        if isinstance(expert, FullExpert):
            if not expert.changes(tensor.name):
                return Dense(torch.zeros_like(base))
            return Dense(self._expert(expert, tensor, rows).sub_(base))
        if rows and expert.stacks(tensor.name):
            return self._adapter_delta(expert, tensor, base.dtype, rows)
        delta = self._adapter_delta(expert, tensor, base.dtype)
        return _rows_of(delta, rows) if rows else delta

    def _adapter_delta(
        self, expert: AdapterExpert, tensor: TensorPlan, dtype: torch.dtype, experts: Rows = None
    ) -> Delta:
        """An adapter's delta of a tensor, or of some experts of a stack.

        Factors of a whole tensor, which are small, are kept for its next slice.

        Threads that ask for the same delta at once may each make it. The copies are equal.
        """
        with self._lock:
            kept = self._factors.get(expert.name)
        if kept is not None and kept[0] == (tensor.name, dtype):
            return kept[1]
        if self._rows is not None and self._by_token(tensor.name) and expert.changes(tensor.name):
            delta = self._rows.delta(expert, tensor.name, tensor.shape)
        else:
            delta = expert.delta(tensor.name, lambda: self._base.read(tensor.name), tensor.shape, experts)
        placed = _placed(delta, dtype, self.device)
        self._check_adapter(placed, expert, tensor)
        if self.device.type == "cuda":  # other threads, with other streams, may use it next
            torch.cuda.current_stream(self.device).synchronize()
        if isinstance(placed, LowRank):
            with self._lock:
                self._factors[expert.name] = ((tensor.name, dtype), placed)
        return placed

    def _expert(self, expert: FullExpert, tensor: TensorPlan, rows: Rows) -> Tensor:
        own = expert.tensors[tensor.name]
        values = self._read(expert, tensor, rows)
        return self._mergeable(values, *_expert_tensor(expert, own))

    def _swapped(self, expert: FullExpert, name: str, rows: Rows) -> Tensor:
        """Rows of a tensor in the base's layout, of an expert that stores its last two axes the other way.

        The rows of a matrix are columns there, so the whole matrix is read for any of them. A row of a stack
        is a matrix, so no more of a stack is read than is asked for.
        """
        reader, own = self._experts[expert.name], expert.tensors[name]
        if len(self.inputs.base.info(name).shape) > 2:
            values = reader.read_rows(own, *rows) if rows else reader.read(own)
            return values.transpose(-1, -2).contiguous()
        return reader.read(own).T[slice(*rows) if rows else slice(None)].contiguous()

    def _mergeable(self, values: Tensor, what: str, file: object) -> Tensor:
        """On the device, float32 or float64, in memory of its own; refused where not finite."""
        if values.dtype == torch.bfloat16 and self.device.type == "cpu":
            wide = widened(values)
            if wide is not None:
                return wide
        if self.device.type == "cuda":  # from pinned memory a copy runs beside the computation
            values = values.pin_memory().to(self.device, non_blocking=True)
        moved = values.to(self.device, torch.float64 if values.dtype == torch.float64 else torch.float32)
        _check_finite(moved, what, file)
        return moved

    def _check_adapter(self, delta: Delta, expert: AdapterExpert, tensor: TensorPlan) -> None:
        parts = (delta.up, delta.down) if isinstance(delta, LowRank) else (delta.values,)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise CheckpointError(
                f"the change of {tensor.name} by adapter {expert.name!r} holds NaN or infinity",
                where=expert.adapter.file,
                expected="finite values",
                hint="find a sound copy of this adapter; nothing has been written",
            )

    def _by_token(self, name: str) -> bool:
        """Whether the rows of a tensor of the base meet those of the experts by their token."""
        return self.inputs.tokens is not None and name in self.inputs.tokens.tensors

    def _flat(self, expert: AnyExpert | None, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a stored tensor, by the base's name of it and in its layout."""
        if self._rows is not None and self._by_token(name):
            if expert is None:
                return self._rows.base(name, start, stop)
            return self._rows.expert(expert, name, start, stop)
        if expert is None:
            return self._base.read_flat(name, start, stop)
        if isinstance(expert, AdapterExpert) or name not in expert.swapped:
            return self._experts[expert.name].read_flat(expert.stored_whole(name) or name, start, stop)
        width = prod(self.inputs.base.info(name).shape[1:])
        first = start // width
        whole = self._swapped(expert, name, (first, -(-stop // width))).flatten()
        return whole[start - first * width : stop - first * width]

    def _read(self, expert: FullExpert | None, tensor: TensorPlan, rows: Rows) -> Tensor:
        width = prod(tensor.shape[1:])
        first, last = rows or (0, tensor.shape[0] if tensor.shape else 1)
        return self._flat(expert, tensor.name, first * width, last * width).view(
            (last - first, *tensor.shape[1:]) if tensor.shape else ()
        )


def _expert_tensor(expert: FullExpert, own: str) -> tuple[str, Path]:
    """What to call an expert's tensor in a message, and its file."""
    return f"tensor {own} of expert {expert.name!r}", expert.checkpoint.tensors[own].file


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN or infinity; one pass without temporaries where the answer is yes.

    A NaN or an infinity makes the sum one. A sum can overflow all by itself, which the second look settles.
    Whole numbers are finite.
    """
    if not values.is_floating_point():
        return not values.is_complex() or all_finite(torch.view_as_real(values))
    if values.dtype.itemsize == 1:  # torch can't add 8-bit floats
        values = values.float()
    total = values.sum(dtype=torch.float32 if values.dtype.itemsize < 4 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def _check_finite(values: Tensor, what: str, file: object) -> None:
    if not all_finite(values):
        finite = torch.isfinite(values)
        raise CheckpointError(
            f"{what} holds NaN or infinity",
            where=file,
            got=f"{int((~finite).sum())} of {values.numel()} values read",
            expected="finite values",
            hint="find a sound copy of this checkpoint; nothing has been written",
        )


def _placed(delta: Delta, dtype: torch.dtype, device: torch.device) -> Delta:
    if isinstance(delta, LowRank):
        return LowRank(delta.up.to(device, dtype), delta.down.to(device, dtype), delta.full_shape)
    return Dense(delta.values.to(device, dtype))


def _rows_of(delta: Delta, rows: tuple[int, int]) -> Delta:
    start, stop = rows
    if isinstance(delta, Dense):
        return Dense(delta.values[start:stop])
    shape = delta.full_shape and (stop - start, *delta.full_shape[1:])
    return LowRank(delta.up[start:stop], delta.down, shape)
