"""Writing one safetensors file as a stream: header first, tensors by position, its name when complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.output_files import disk_errors, partial_path, reserve, sync_folder, write_all
from optmerge.checkpoints.safetensors_format import encode_header
from optmerge.checkpoints.shards import Shard
from optmerge.errors import OutputError

METADATA = {"format": "pt"}  # what save_pretrained writes; transformers refuses files without it


class ShardWriter:
    """One safetensors file being written, under NAME.partial until `commit`.

    Writes may come from many threads and in any order, but each element once. Use `create` or `reopen`.

    Args:
        folder: existing output folder.
        shard: what the file will hold.
        metadata: for the header.
    """

    def __init__(self, folder: Path, shard: Shard, metadata: Mapping[str, str] = METADATA) -> None:
        self.path = folder / shard.file_name
        self.shard = shard
        self._header, self._begins = encode_header(shard.tensors, metadata)
        self._specs = {spec.name: spec for spec in shard.tensors}
        self._missing = {spec.name: spec.nbytes for spec in shard.tensors}
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, shard: Shard, metadata: Mapping[str, str] = METADATA) -> ShardWriter:
        """Start a file: its header is written and its space on disk is reserved.

        The file gets its partial name after that. So a partial file has its header, whenever the process is
        killed.

        Raises:
            RunError: the disk is full or failed.
            OutputError: the folder can't be written to.
        """
        writer = cls(folder, shard, metadata)
        partial = partial_path(writer.path)
        begun = partial_path(partial)
        with disk_errors(writer.path):
            try:
                descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                try:
                    reserve(descriptor, writer.file_bytes)
                    write_all(descriptor, memoryview(writer._header), 0)
                finally:
                    os.close(descriptor)
                begun.replace(partial)
            except OSError:  # a full disk shouldn't stay full
                with suppress(OSError):
                    begun.unlink(missing_ok=True)
                raise
        return writer

    @classmethod
    def reopen(
        cls,
        folder: Path,
        shard: Shard,
        metadata: Mapping[str, str] = METADATA,
        *,
        written: Iterable[str] = (),
    ) -> ShardWriter:
        """Continue a file that `create` started.

        Args:
            folder: existing output folder.
            shard: as at `create`.
            metadata: as at `create`.
            written: tensors known to be on disk (a `sync` followed their writing).

        Raises:
            OutputError: there is no such file, or it was made for other tensors.
        """
        writer = cls(folder, shard, metadata)
        if not writer._matches(partial_path(writer.path)):
            hint = "start over with --overwrite"
            raise OutputError("the partial file doesn't belong to this merge", where=writer.path, hint=hint)
        for name in written:
            writer._missing.pop(name, None)
        return writer

    @property
    def file_bytes(self) -> int:
        """Size of the finished file."""
        return len(self._header) + sum(spec.nbytes for spec in self.shard.tensors)

    @property
    def complete(self) -> bool:
        """Whether every tensor has been written."""
        return not self._missing

    def needs(self, name: str) -> bool:
        """Whether a tensor hasn't been written in full."""
        return name in self._missing

    def committed(self) -> bool:
        """Whether the finished file exists under its final name, judged by header and size."""
        return self._matches(self.path)

    def _matches(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                same = file.read(len(self._header)) == self._header
                return same and os.fstat(file.fileno()).st_size == self.file_bytes
        except OSError:
            return False

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor.

        Args:
            name: one of the shard's.
            tensor: of the planned shape and dtype.

        Raises:
            ValueError: another shape or dtype than planned.
            RunError: the disk is full or failed.
        """
        if tuple(tensor.shape) != self._specs[name].shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, planned {self._specs[name].shape}")
        self.write_flat(name, 0, tensor)

    def write_flat(self, name: str, start: int, tensor: Tensor) -> None:
        """Write elements of the flattened tensor from `start` on; errors as `write`."""
        spec = self._specs[name]
        dtype = DTYPES[spec.dtype]
        begin, size = start * dtype.itemsize, tensor.numel() * dtype.itemsize
        if tensor.dtype != dtype.torch or begin < 0 or begin + size > spec.nbytes:
            raise ValueError(f"{name}: {tensor.dtype}, elements {start}+{tensor.numel()}, planned {spec}")
        if size:
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            with disk_errors(self.path):
                write_all(self._open(), data, self._begins[name] + begin)
        with self._lock:
            left = self._missing.get(name, 0) - size
            if left > 0:
                self._missing[name] = left
            else:
                self._missing.pop(name, None)

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(partial_path(self.path), os.O_RDWR | os.O_CLOEXEC)
            return self._descriptor

    def sync(self) -> None:
        """Wait until what was written is on the disk.

        Raises:
            RunError: the disk failed.
        """
        with self._lock:  # another thread may be closing the file just now
            descriptor = None if self._descriptor is None else os.dup(self._descriptor)
        if descriptor is None:
            return
        try:
            with disk_errors(self.path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def commit(self) -> None:
        """Sync, close, and give the file its name.

        Raises:
            ValueError: some tensor hasn't been written in full.
            RunError: the disk failed.
        """
        if self._missing:
            raise ValueError(f"{self.path}: not written: {', '.join(sorted(self._missing)[:5])}")
        with disk_errors(self.path):
            os.fsync(self._open())
            self.close()
            partial_path(self.path).replace(self.path)
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file as it is."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
