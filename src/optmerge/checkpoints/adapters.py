"""PEFT adapters as experts: each target's exact delta, read when asked for; and any model, by content.

A delta is what PEFT's own `merge_and_unload` would add to the base, computed in float32 or better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_config import read_adapter_config
from optmerge.checkpoints.adapter_tensors import AdapterTensor, dora, factors, group_tensors
from optmerge.checkpoints.checkpoint import Checkpoint, hash_files, open_checkpoint
from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.hub import hub_id, locate
from optmerge.checkpoints.layout import PICKLES_NOT_FETCHED, is_adapter
from optmerge.checkpoints.paths import member
from optmerge.checkpoints.pickles import PickleSource, pickle_header
from optmerge.checkpoints.reader import FileSource, Reader, Source
from optmerge.checkpoints.safetensors_format import Header, read_header
from optmerge.checkpoints.side_files import list_side_files
from optmerge.deltas import Delta, Dense
from optmerge.errors import AdapterError

__all__ = ["Adapter", "AdapterTensor", "is_adapter", "open_adapter", "open_model"]

_WEIGHTS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk.

    Args:
        path: its folder.
        ref: what the user wrote.
        config: adapter_config.json.
        file: its weights.
        header: of the weights.
        targets: by parameter name, as the transformers class it was trained on names it; sorted.
        side_files: tokenizer and the like, relative to `path`, sorted.
    """

    path: Path
    ref: str
    config: dict[str, Any]
    file: Path
    header: Header
    targets: dict[str, AdapterTensor]
    side_files: tuple[Path, ...]

    @property
    def base_model_name(self) -> str | None:
        """Path or hub id of the base at the time of training, by the configuration; None if it has none."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    def identity(self) -> str:
        """SHA-256 (hexadecimal) of the configuration, and the weights' size and header."""
        config = json.dumps(self.config, sort_keys=True)
        parts = f"{config}\n{self.file.name}\0{self.header.file_bytes}\0{self.header.digest}"
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()

    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) of configuration and weights, all bytes."""
        return hash_files([self.path / "adapter_config.json", self.file])

    def reader(self, digests: TensorDigests | None = None) -> Reader:
        """A context manager to read the adapter's own tensors with; the file opens at first use.

        Args:
            digests: told of whatever is read.
        """
        return Reader(self.header.tensors, self._open_source, digests)

    def check_shapes(self, base_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check every target against the shape of the base's parameter.

        Args:
            base_shapes: by target name; all targets.

        Raises:
            AdapterError: a parameter is missing or has another shape; or the orientation of a square
                parameter is unknown, because other shapes contradict the configuration's fan_in_fan_out.
        """
        flipped, squares = [], []
        for name, target in self.targets.items():
            if name not in base_shapes:
                hint = f"use the base it was trained on: {self.base_model_name or 'not recorded'}"
                raise AdapterError(f"the base has no {name}", where=self.file, hint=hint)
            if self._orientation(target, base_shapes[name]) != target.transposed:
                flipped.append(name)
            if target.rank and len(target.shape) == 2 and target.shape[0] == target.shape[1]:
                squares.append(name)
        if flipped and squares:
            got = f"fan_in_fan_out is {self.targets[flipped[0]].transposed}, {flipped[0]} says otherwise"
            hint = "merge the adapter into its base with PEFT and give the full checkpoint"
            raise AdapterError(
                f"{squares[0]}: its orientation is unknown", where=self.file, got=got, hint=hint
            )

    def _orientation(self, target: AdapterTensor, shape: tuple[int, ...]) -> bool:
        transposed = target.orientation(shape)
        if transposed is None:
            hint = f"use the base it was trained on: {self.base_model_name or 'not recorded'}"
            raise AdapterError(
                f"the adapter doesn't fit {target.name}",
                where=self.file,
                got=target.shape,
                expected=shape,
                hint=hint,
            )
        return transposed

    def delta(
        self, name: str, base: Callable[[], Tensor], base_shape: tuple[int, ...] | None = None
    ) -> Delta:
        """Change that the adapter makes to one parameter.

        Plain LoRA comes as factors with the scale folded into `up`. DoRA and full tensors come dense, and
        only they call `base`.

        Args:
            name: a key of `targets`.
            base: reads the base's parameter, any float type.
            base_shape: shape of the base's parameter, which settles how linear layers are stored; if None,
                the configuration settles it.

        Returns:
            A float32 delta of the base parameter's shape.

        Raises:
            KeyError: no such target.
            AdapterError: the shapes don't fit.
            CheckpointError: the file has changed or shrunk.
        """
        target = self.targets[name]
        transposed = self._orientation(target, base_shape or target.shape)
        with Reader({info.name: info for info in target.parts.values()}, self._open_source) as reader:
            parts = {part: reader.read(info.name).to(torch.float32) for part, info in target.parts.items()}
        if "bias" in parts:
            return Dense(parts["bias"] * target.scaling)
        if target.kind == "full":
            return Dense(parts["full"] - self._base(target, base))
        low_rank = factors(target, parts, transposed)
        if target.kind == "lora" and "full" not in parts:
            return low_rank
        before = self._base(target, base, low_rank.shape)
        start = parts["full"].view(low_rank.shape) if "full" in parts else before
        if target.kind == "lora" and torch.equal(start, before):  # PEFT saves an adapted embedding's base too
            return low_rank
        change = low_rank.dense()
        if target.kind == "dora":
            outputs = 1 if transposed or target.embedding else 0
            change = dora(start, change, parts["magnitude"], outputs)
        return Dense(change if start is before else change + (start - before))

    def _base(
        self, target: AdapterTensor, base: Callable[[], Tensor], shape: tuple[int, ...] | None = None
    ) -> Tensor:
        tensor = base().to(torch.float32)
        self._orientation(target, tuple(tensor.shape))
        if tuple(tensor.shape) != (shape or target.shape):
            raise AdapterError(
                f"{target.name}: the base's shape changed", where=self.file, got=tuple(tensor.shape)
            )
        return tensor

    def _open_source(self, file: Path) -> Source:
        if file.name == _PICKLED:
            return PickleSource(file)
        return FileSource(file, (self.header.file_bytes, self.header.modified_ns))


def open_adapter(ref: str | Path, *, allow_pickle: bool = False) -> Adapter:
    """Read the configuration and the header of an adapter; no tensor is read.

    Args:
        ref: an adapter folder, or a hub id `org/name[@revision]`; a local path wins.
        allow_pickle: accept adapter_model.bin when there is nothing else, loaded with `weights_only`.

    Raises:
        AdapterError: not an adapter, of an unsupported kind, or inconsistent.
        CheckpointError: not found, or its file isn't safetensors.
    """
    folder = locate(ref, allow_pickle=allow_pickle)
    if not is_adapter(folder):
        raise AdapterError("not an adapter", where=folder, expected="a folder with adapter_config.json")
    config, settings = read_adapter_config(folder)
    file = _weights_file(folder, allow_pickle)
    header = pickle_header(file) if file.name == _PICKLED else read_header(file)
    targets = group_tensors(file, header.tensors, settings)
    return Adapter(folder, str(ref), config, file, header, targets, tuple(list_side_files(folder)))


def open_model(ref: str | Path, *, allow_pickle: bool = False) -> Checkpoint | Adapter:
    """Open the model of a reference: an adapter if it has an adapter_config.json, else a checkpoint.

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


def _weights_file(folder: Path, allow_pickle: bool) -> Path:
    if (folder / _WEIGHTS).exists():
        return member(folder, _WEIGHTS, folder, AdapterError)
    if not (folder / _PICKLED).exists():
        unfetched = hub_id(folder) is not None and not allow_pickle
        hint = PICKLES_NOT_FETCHED if unfetched else None
        raise AdapterError("the adapter has no weights", where=folder, expected=_WEIGHTS, hint=hint)
    if not allow_pickle:
        hint = "load and save it with PEFT, or write `allow_pickle: true` in the recipe"
        raise AdapterError("the adapter is a pickle", where=folder / _PICKLED, expected=_WEIGHTS, hint=hint)
    return member(folder, _PICKLED, folder, AdapterError)
