"""PyTorch pickles as checkpoints, for users who allow pickles: `weights_only`, memory-mapped, read-only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.dtypes import DTYPES, dtype_name
from optmerge.checkpoints.paths import require_regular_file
from optmerge.checkpoints.safetensors_format import Header, TensorInfo
from optmerge.errors import CheckpointError


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file, memory-mapped; no code in it is run.

    Raises:
        CheckpointError: not such a file, in the format before PyTorch 1.6, or holding anything but tensors.
    """
    require_regular_file(path)
    hint = "convert the checkpoint to safetensors in the environment that wrote it"
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as problem:  # torch raises half a dozen kinds
        got = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise CheckpointError("the pickle can't be loaded safely", where=path, got=got, hint=hint) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        expected = "a state dict: names → tensors"
        raise CheckpointError("the pickle isn't a state dict", where=path, expected=expected, hint=hint)
    return {str(name): tensor.detach() for name, tensor in state.items()}


def pickle_header(path: Path) -> Header:
    """Header of a pickled state dict in the form of a safetensors header; offsets are nominal.

    The digest covers names, types and shapes.

    Raises:
        CheckpointError: as `load_pickle`, or a dtype safetensors can't hold.
    """
    status = require_regular_file(path)
    tensors, begin = {}, 0
    for name, tensor in sorted(load_pickle(path).items()):
        try:
            dtype = dtype_name(tensor.dtype)
        except KeyError:
            raise CheckpointError(
                f"tensor {name}: unsupported type",
                where=path,
                got=tensor.dtype,
                expected=", ".join(DTYPES),
                hint="convert the checkpoint to safetensors with types that it knows",
            ) from None
        end = begin + tensor.numel() * DTYPES[dtype].itemsize
        tensors[name] = TensorInfo(name, dtype, tuple(tensor.shape), path, begin, end)
        begin = end
    shapes = repr([(info.name, info.dtype, info.shape) for info in tensors.values()])
    digest = hashlib.sha256(shapes.encode("utf-8", "surrogatepass")).hexdigest()
    return Header(tensors, {}, digest, status.st_size, status.st_mtime_ns)


class PickleSource:
    """An open (mapped) pickle."""

    def __init__(self, path: Path) -> None:
        self._tensors = load_pickle(path)

    def fill(self, info: TensorInfo, start_byte: int, out: Tensor) -> None:
        """Fill `out` (uint8) with the tensor's bytes from `start_byte` of it on."""
        flat = self._tensors[info.name].contiguous().reshape(-1).view(torch.uint8)
        out.copy_(flat[start_byte : start_byte + out.numel()])

    def close(self) -> None:
        """Unmap."""
        self._tensors = {}
