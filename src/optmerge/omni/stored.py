"""Writing an omni checkpoint of tensors that lie in several files, and of a few more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import dtype_name
from optmerge.checkpoints.output_files import disk_errors, write_file
from optmerge.checkpoints.shards import DEFAULT_SHARD_BYTES, plan_shards
from optmerge.checkpoints.side_files import copy_side_files
from optmerge.engine.output.folder import PROVENANCE

BLOCK = 1 << 24
"""Elements copied at a time."""


def write_view(
    view: Checkpoint, folder: Path, record: Mapping[str, Any], more: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a checkpoint with its side files; the folder appears whole.

    Args:
        view: what is copied, tensors bit for bit.
        folder: not there yet, or of an earlier composition, which goes.
        record: its provenance.
        more: tensors that are added.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to.
    """
    more = more or {}
    partial = folder.with_name(f"{folder.name}.partial")
    with disk_errors(partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    copy_side_files(view.path, partial)
    specs = [(name, info.dtype, info.shape) for name, info in view.tensors.items()]
    specs += [(name, dtype_name(each.dtype), tuple(each.shape)) for name, each in more.items()]
    with (
        view.reader() as reader,
        CheckpointWriter(partial, plan_shards(specs, DEFAULT_SHARD_BYTES)) as writer,
    ):
        for name, info in view.tensors.items():
            for start in range(0, info.numel, BLOCK):
                writer.write_flat(name, start, reader.read_flat(name, start, min(info.numel, start + BLOCK)))
        for name, values in more.items():
            writer.write(name, values)
        writer.finish()
    write_file(partial / PROVENANCE, (json.dumps(record, indent=1) + "\n").encode())
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
