"""The shards of one checkpoint while they are written, and its index at the end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch import Tensor

from optmerge.checkpoints.output_files import partial_path, write_file
from optmerge.checkpoints.shard_writer import METADATA, ShardWriter
from optmerge.checkpoints.shards import INDEX_NAME, Shard, encode_index
from optmerge.errors import OptMergeError


class CheckpointWriter:
    """A checkpoint being written; a context manager, safe to write to from many threads.

    Space for every shard is reserved at the start. A shard gets its name as soon as its last tensor is
    written; the index is written last, by `finish`. Leaving the context without `finish` keeps the partial
    files, for a later run to continue.

    Args:
        folder: existing output folder.
        shards: from `plan_shards`.
        metadata: for every header.
        resume: continue from what an earlier run with the same shards left; otherwise it is overwritten.
        written: with `resume`, tensors known to be on disk in partial files.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to, or `resume` finds partial files of another merge.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        *,
        metadata: Mapping[str, str] = METADATA,
        resume: bool = False,
        written: Sequence[str] = (),
    ) -> None:
        self.folder, self.shards = folder, tuple(shards)
        self._open: dict[str, ShardWriter] = {}
        self._shard_of = {spec.name: shard.file_name for shard in shards for spec in shard.tensors}
        self._lock = threading.Lock()
        created: list[Path] = []
        try:
            for shard in shards:
                writer = ShardWriter(folder, shard, metadata)
                if resume and writer.committed():
                    continue
                if resume and partial_path(writer.path).exists():
                    writer = ShardWriter.reopen(folder, shard, metadata, written=written)
                else:
                    created.append(partial_path(writer.path))
                    writer = ShardWriter.create(folder, shard, metadata)
                self._open[shard.file_name] = writer
        except OptMergeError:
            for path in created:  # they hold nothing yet, and a full disk shouldn't stay full
                with suppress(OSError):  # the disk may have failed altogether
                    path.unlink(missing_ok=True)
            raise
        for writer in list(self._open.values()):  # all written before the interruption, or nothing to write
            self._commit_if_complete(writer)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def complete_shards(self) -> frozenset[str]:
        """File names of the shards that are complete, which have their final names."""
        return frozenset(shard.file_name for shard in self.shards) - self._open.keys()

    def needs(self, name: str) -> bool:
        """Whether a tensor still has to be written, in full or in part."""
        writer = self._open.get(self._shard_of[name])
        return writer is not None and writer.needs(name)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor of the planned shape and dtype.

        Raises:
            KeyError: not planned, or its shard is complete.
            ValueError: another shape or dtype than planned.
            RunError: the disk is full or failed.
        """
        writer = self._open[self._shard_of[name]]
        writer.write(name, tensor)
        self._commit_if_complete(writer)

    def write_flat(self, name: str, start: int, tensor: Tensor) -> None:
        """Write elements of the flattened tensor from `start` on, each once; errors as `write`."""
        writer = self._open[self._shard_of[name]]
        writer.write_flat(name, start, tensor)
        self._commit_if_complete(writer)

    def sync(self) -> None:
        """Wait until what was written is on the disk; errors as `write`."""
        for writer in list(self._open.values()):
            writer.sync()

    def finish(self, total_parameters: int | None = None) -> None:
        """Write the index (when there are several shards); the checkpoint is complete.

        Args:
            total_parameters: for the index; the number of elements written when None.

        Raises:
            ValueError: some tensor hasn't been written.
            RunError: the disk is full or failed.
        """
        if self._open:
            raise ValueError(f"shards not complete: {', '.join(sorted(self._open))}")
        if len(self.shards) > 1:
            write_file(self.folder / INDEX_NAME, encode_index(self.shards, total_parameters))

    def _commit_if_complete(self, writer: ShardWriter) -> None:
        if not writer.complete:
            return
        with self._lock:  # two threads may have written the last two pieces
            if self._open.pop(writer.shard.file_name, None) is not None:
                writer.commit()

    def close(self) -> None:
        """Close all files as they are."""
        for writer in self._open.values():
            writer.close()
