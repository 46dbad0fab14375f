"""Checkpoint or adapter: recognised by content."""

from __future__ import annotations

from pathlib import Path

from optmerge.checkpoints.adapters import Adapter, open_adapter
from optmerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.layout import is_adapter


def open_model(ref: str | Path, *, allow_pickle: bool = False) -> Checkpoint | Adapter:
    """Open whatever a reference leads to: an adapter if there is an adapter_config.json, else a checkpoint.

    Args:
        ref: a folder, a .safetensors file, or a hub id `org/name[@revision]`; a local path wins.
        allow_pickle: accept pickled weights when there is nothing else, loaded with `weights_only`.

    Raises:
        CheckpointError: not found, or not a consistent checkpoint.
        AdapterError: not a consistent adapter, or of an unsupported kind.
    """
    if is_adapter(locate(ref, allow_pickle=allow_pickle)):
        return open_adapter(ref, allow_pickle=allow_pickle)
    return open_checkpoint(ref, allow_pickle=allow_pickle)
