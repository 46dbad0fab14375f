"""PEFT adapters as experts: each target's exact delta, read when asked for; and any model, by content.

A delta is what PEFT's own `merge_and_unload` would add to the base, computed in float32 or better.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_config import CONVERT, read_adapter_config
from optmerge.checkpoints.adapter_tensors import (
    AdapterTensor,
    TargetPiece,
    dora,
    expert_factors,
    factors,
    group_tensors,
)
from optmerge.checkpoints.checkpoint import Checkpoint, hash_files, open_checkpoint
from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.hub import hub_id, left_on_the_hub, locate
from optmerge.checkpoints.layout import PICKLES_NOT_FETCHED, is_adapter
from optmerge.checkpoints.paths import member
from optmerge.checkpoints.pickles import PickleSource, pickle_header
from optmerge.checkpoints.reader import FileSource, Reader, Source
from optmerge.checkpoints.safetensors_format import Header, TensorInfo, read_header
from optmerge.checkpoints.side_files import list_side_files
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.errors import AdapterError, CheckpointError

__all__ = ["Adapter", "AdapterTensor", "TargetPiece", "is_adapter", "open_adapter", "open_model"]

_WEIGHTS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"

# What else lies in the folder of an adapter and holds no weights of the model: the state of its training.
_TRAINING_STATE = re.compile(
    r"^(optimizer|(lr_)?scheduler|rng_state|random_states|scaler|sampler|dl_state_dict|training_args"
    r"|trainer_state|spk_dict|\.)"
)
_BESIDE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


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
        beside: headers of other weights in its folder, by file, sorted.
        listed: whether it is known that no pickle beside it was left on the hub.
    """

    path: Path
    ref: str
    config: dict[str, Any]
    file: Path
    header: Header
    targets: dict[str, AdapterTensor]
    side_files: tuple[Path, ...]
    beside: Mapping[Path, Header] = field(default_factory=dict)
    listed: bool = True

    @property
    def headers(self) -> dict[Path, Header]:
        """Headers of the adapter's weights, and of those beside them, by file."""
        return {self.file: self.header, **self.beside}

    @property
    def nbytes(self) -> int:
        """Size of the adapter's files of weights."""
        return sum(header.file_bytes for header in self.headers.values())

    @property
    def base_model_name(self) -> str | None:
        """Path or hub id of the base at the time of training, by the configuration; None if it has none."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    def identity(self) -> str:
        """SHA-256 (hexadecimal) of the configuration, and the sizes and headers of the weights."""
        config = json.dumps(self.config, sort_keys=True)
        files = (f"{file.name}\0{each.file_bytes}\0{each.digest}" for file, each in self.headers.items())
        return hashlib.sha256("\n".join((config, *files)).encode("utf-8", "surrogatepass")).hexdigest()

    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) of configuration and weights, all bytes."""
        return hash_files([self.path / "adapter_config.json", *self.headers])

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor in the adapter's files, by the name that it has there."""
        return {name: info for each in self.headers.values() for name, info in each.tensors.items()}

    def reader(self, digests: TensorDigests | None = None) -> Reader:
        """A context manager to read the adapter's own tensors with; files open at first use.

        Args:
            digests: told of whatever is read.
        """
        return Reader(self.tensors, self._open_source, digests)

    def check_shapes(self, base_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check targets against the shapes of the base's parameters.

        Args:
            base_shapes: by target name; those that are whole parameters of the base.

        Raises:
            AdapterError: a parameter has another shape; or the orientation of a square parameter is unknown,
                because other shapes contradict the configuration's fan_in_fan_out.
        """
        flipped, squares = [], []
        for name, shape in base_shapes.items():
            target = self.targets[name]
            if self._orientation(target, shape) != target.transposed:
                flipped.append(name)
            if target.rank and len(target.shape) == 2 and target.shape[0] == target.shape[1]:
                squares.append(name)
        if flipped and squares:
            got = f"fan_in_fan_out is {self.targets[flipped[0]].transposed}, {flipped[0]} says otherwise"
            raise AdapterError(
                f"{squares[0]}: its orientation is unknown", where=self.file, got=got, hint=CONVERT
            )

    def _orientation(self, target: AdapterTensor, shape: tuple[int, ...]) -> bool:
        transposed = target.orientation(shape)
        if transposed is None:
            raise self.misfit(target, shape)
        return transposed

    def misfit(self, target: AdapterTensor, shape: tuple[int, ...]) -> AdapterError:
        """The refusal of a target whose parameter of the base has another shape."""
        trained = f"it was trained on {self.base_model_name}; " if self.base_model_name else ""
        if (target.embedding or target.kind == "full") and target.shape[1:] == shape[1:]:
            trained += "if it has tokens of its own, write in the recipe: vocabulary: union; "
        pattern = re.escape(target.name)
        return AdapterError(
            f"the adapter doesn't fit {target.name}",
            where=next(iter(target.parts.values())).file,
            got=list(target.shape),
            expected=list(shape),
            hint=f"{trained}if this tensor may be left out, write in the recipe: ignore: ['^{pattern}$']",
        )

    def delta(
        self, name: str, base: Callable[[], Tensor], base_shape: tuple[int, ...] | None = None
    ) -> Delta:
        """Change that the adapter makes to one whole parameter; `piece_delta` makes that of a stack.

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
        with self._reader(target) as reader:
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

    def piece_delta(self, piece: TargetPiece, experts: tuple[int, int] | None = None) -> Delta:
        """Change that the adapter makes to a stack of experts, or to one expert's matrix of it.

        Args:
            piece: what of a stack.
            experts: first and last-plus-one expert, where only some of a whole stack are asked for.

        Returns:
            Factors of one expert, or a dense (E, m, n) delta of a stack, float32.

        Raises:
            CheckpointError: the file has changed or shrunk.
        """
        target = self.targets[piece.target]
        assert target.rank is not None, "only low-rank targets are taken to pieces"
        first, last = experts or (0, target.shape[0])
        if piece.expert is not None:
            first, last = piece.expert, piece.expert + 1
        with self._reader(target) as reader:
            down = reader.read_rows(target.parts["down"].name, first * target.rank, last * target.rank)
            up = reader.read(target.parts["up"].name)
        ups, downs = expert_factors(
            target, down.to(torch.float32), up.to(torch.float32), piece, (first, last)
        )
        return LowRank(ups[0], downs[0]) if piece.expert is not None else Dense(ups @ downs)

    def _reader(self, target: AdapterTensor) -> Reader:
        return Reader({info.name: info for info in target.parts.values()}, self._open_source)

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
        header = self.headers[file]
        if file.suffix != ".safetensors":
            return PickleSource(file)
        return FileSource(file, (header.file_bytes, header.modified_ns))


def open_adapter(
    ref: str | Path, *, allow_pickle: bool = False, ignored: Iterable[re.Pattern[str]] = ()
) -> Adapter:
    """Read the configuration and the header of an adapter; no tensor is read.

    Args:
        ref: an adapter folder, or a hub id `org/name[@revision]`; a local path wins.
        allow_pickle: accept adapter_model.bin when there is nothing else, and pickles beside the adapter,
            loaded with `weights_only`.
        ignored: names of files beside the adapter that aren't looked at.

    Raises:
        AdapterError: not an adapter, of an unsupported kind, or inconsistent; or a pickle that isn't allowed
            lies beside it, here or on the hub.
        CheckpointError: not found, or its file isn't safetensors.
    """
    folder = locate(ref, allow_pickle=allow_pickle)
    if not is_adapter(folder):
        raise AdapterError("not an adapter", where=folder, expected="a folder with adapter_config.json")
    config, settings = read_adapter_config(folder)
    file = _weights_file(folder, allow_pickle)
    header = pickle_header(file) if file.name == _PICKLED else read_header(file)
    targets = group_tensors(file, header.tensors, settings)
    patterns, left = list(ignored), left_on_the_hub(folder)
    beside = _beside(folder, allow_pickle, patterns)
    _refuse_left(folder, [name for name in left or () if _is_beside(name, patterns)])
    side_files, listed = tuple(list_side_files(folder)), left is not None or allow_pickle
    return Adapter(folder, str(ref), config, file, header, targets, side_files, beside, listed)


def open_model(
    ref: str | Path, *, allow_pickle: bool = False, ignored: Iterable[re.Pattern[str]] = ()
) -> Checkpoint | Adapter:
    """Open the model of a reference: an adapter if it has an adapter_config.json, else a checkpoint.

    Args:
        ref: a folder, a .safetensors file, or a hub id `org/name[@revision]`; a local path wins.
        allow_pickle: accept pickled weights when there is nothing else, loaded with `weights_only`.
        ignored: names of files beside an adapter that aren't looked at.

    Raises:
        CheckpointError: not found, or not a consistent checkpoint.
        AdapterError: not a consistent adapter, or of an unsupported kind.
    """
    if is_adapter(locate(ref, allow_pickle=allow_pickle)):
        return open_adapter(ref, allow_pickle=allow_pickle, ignored=ignored)
    return open_checkpoint(ref, allow_pickle=allow_pickle)


def _beside(folder: Path, allow_pickle: bool, ignored: list[re.Pattern[str]]) -> dict[Path, Header]:
    """Headers of the other files of weights in an adapter's folder."""
    found = {}
    for name in sorted(entry.name for entry in folder.iterdir() if _is_beside(entry.name, ignored)):
        leave_out = f"to leave it out, remove it or write in the recipe: ignore: ['^{re.escape(name)}$']"
        path = member(folder, name, folder, AdapterError)
        if name.lower().endswith(".safetensors"):
            found[path] = read_header(path)
        elif not allow_pickle:
            raise AdapterError(
                "other weights lie beside the adapter, in a pickle",
                where=path,
                got=name,
                expected="safetensors",
                hint=f"to merge them too, write in the recipe: allow_pickle: true; {leave_out}",
            )
        else:
            try:
                found[path] = pickle_header(path)
            except CheckpointError as problem:
                raise AdapterError(
                    "what lies beside the adapter can't be read", where=path, got=problem.what, hint=leave_out
                ) from problem
    return found


def _is_beside(name: str, ignored: Iterable[re.Pattern[str]]) -> bool:
    """Whether a file of an adapter's folder, by its name, holds weights that aren't the adapter's own."""
    return (
        name.lower().endswith(_BESIDE)
        and name not in (_WEIGHTS, _PICKLED)
        and not _TRAINING_STATE.match(name)
        and not any(pattern.search(name) for pattern in ignored)
    )


def _refuse_left(folder: Path, names: list[str]) -> None:
    """Refuses pickles beside the adapter that are on the hub and weren't fetched."""
    if names:
        raise AdapterError(
            "other weights lie beside the adapter on the hub, in a pickle",
            where=hub_id(folder),
            got=", ".join(names),
            expected="safetensors",
            hint="to merge them too, name the adapter by its hub id and write in the recipe: "
            f"allow_pickle: true; to leave them out, write in the recipe: ignore: [{_patterns(names)}]",
        )


def _patterns(names: list[str]) -> str:
    return ", ".join(f"'^{re.escape(name)}$'" for name in names)


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
