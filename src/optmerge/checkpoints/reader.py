"""Reading tensors, or parts of them, from files whose headers have been checked.

Bytes come by `preadv` into fresh memory, never by a memory map. A file that shrinks under a map kills the
process with SIGBUS; a short read is an error that can be reported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.output_files import LARGEST_CALL
from optmerge.checkpoints.paths import READABLE
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.errors import CheckpointError, RunError


class Source(Protocol):
    """Source of the bytes of one file."""

    def fill(self, info: TensorInfo, start_byte: int, out: Tensor) -> None:
        """Fill `out` (uint8) with the tensor's bytes from `start_byte` of it on."""

    def close(self) -> None:
        """Closes the file."""


class FileSource:
    """An open safetensors file.

    Args:
        path: the file.
        stamp: (size in bytes, time of change in ns) when its header was read.

    Raises:
        CheckpointError: the file is gone or has changed since.
    """

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as problem:
            raise CheckpointError(
                "the file can't be opened", where=path, got=problem.strerror, hint=READABLE
            ) from None
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != stamp:
            self.close()
            hint = "nothing may write to the checkpoint while it is read; start again"
            raise CheckpointError("the file changed since its header was read", where=path, hint=hint)

    def fill(self, info: TensorInfo, start_byte: int, out: Tensor) -> None:
        """Fill `out` (uint8, contiguous) with the tensor's bytes from `start_byte` of it on."""
        view = out.numpy().data
        done, offset = 0, info.begin + start_byte
        while done < len(view):  # a file system may give less than it was asked for
            try:
                piece = view[done : done + LARGEST_CALL]
                count = os.preadv(self._descriptor, [piece], offset + done)
            except OSError as problem:
                raise RunError(f"{self._path}: reading {info.name} failed: {problem.strerror}") from problem
            if count == 0:
                raise CheckpointError(
                    f"the file ended inside tensor {info.name}",
                    where=self._path,
                    got=f"{offset + done} bytes",
                    expected=f"at least {offset + len(view)} bytes",
                    hint="nothing may write to a checkpoint while it is read; check the file, start again",
                )
            done += count

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Reader:
    """Open files of one checkpoint; a context manager, safe to read from by many threads.

    Files open at first use and close with the reader. A read takes memory for the range asked for, no more.

    Args:
        tensors: by name.
        open_source: opens one file.
        digests: told of whatever is read; None where nobody asks.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        open_source: OpenSource,
        digests: TensorDigests | None = None,
    ) -> None:
        self._tensors, self._open_source, self._digests = tensors, open_source, digests
        self._sources: dict[Path, Source] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; reading afterwards opens them again."""
        with self._lock:
            for source in self._sources.values():
                source.close()
            self._sources.clear()

    def read(self, name: str) -> Tensor:
        """A whole tensor, in its own dtype, on the CPU, in fresh memory.

        Raises:
            KeyError: no such tensor.
            CheckpointError: the file has changed or shrunk.
            RunError: the disk failed.
        """
        info = self._tensors[name]
        return self.read_flat(name, 0, info.numel).view(info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a tensor's first dimension, shape (stop − start, …); errors as `read`."""
        info = self._tensors[name]
        if not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name}, shape {info.shape}")
        width = info.numel // info.shape[0] if info.shape[0] else 0
        flat = self.read_flat(name, start * width, stop * width)
        return flat.view(stop - start, *info.shape[1:])

    def read_flat(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, shape (stop − start,); errors as `read`."""
        info = self._tensors[name]
        if not 0 <= start <= stop <= info.numel:
            raise IndexError(f"elements {start}:{stop} of {name}, which has {info.numel}")
        out = torch.empty(stop - start, dtype=DTYPES[info.dtype].torch)
        self.fill(name, start, out)
        return out

    def dtype(self, name: str) -> str:
        """The safetensors name of a tensor's type."""
        return self._tensors[name].dtype

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """Elements of the flattened tensor from `start` on into `out`, flat, contiguous, of its dtype."""
        info = self._tensors[name]
        if out.numel():
            first = start * DTYPES[info.dtype].itemsize
            memory = out.view(torch.uint8)
            self._source(info.file).fill(info, first, memory)
            if self._digests is not None:
                self._digests.update(name, first, memory.numpy().data)

    def _source(self, file: Path) -> Source:
        with self._lock:
            if file not in self._sources:
                self._sources[file] = self._open_source(file)
            return self._sources[file]


class OpenSource(Protocol):
    """Opens one file of a checkpoint."""

    def __call__(self, file: Path) -> Source:
        """The open file."""
