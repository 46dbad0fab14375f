"""Checkpoints: what they hold, known from headers alone, and a reader of their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.layout import check_index, find_weights, is_adapter
from optmerge.checkpoints.paths import READABLE, member
from optmerge.checkpoints.pickles import PickleSource, pickle_header
from optmerge.checkpoints.reader import FileSource, Reader, Source
from optmerge.checkpoints.safetensors_format import Header, TensorInfo, read_header
from optmerge.checkpoints.side_files import list_side_files
from optmerge.errors import CheckpointError

__all__ = ["Checkpoint", "Reader", "is_adapter", "open_checkpoint"]

_HASH_BLOCK_BYTES = 1 << 20

# Types that code which reads a config may rely on; the first two also hold in the configs of its parts.
_KINDS: dict[str, type] = {"model_type": str, "architectures": list}
_PARTS = ("text_config", "llm_config", "vision_config", "audio_config")
_CONFIG_KINDS = _KINDS | dict.fromkeys((*_PARTS, "quantization_config"), dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, as its headers describe it.

    Args:
        path: the folder, or the single file.
        ref: what the user wrote.
        tensors: by name, sorted by name.
        headers: by file, sorted by file name.
        config: config.json; None for a bare file or a folder without one.
        metadata: text pairs of the first file's header.
        side_files: every other file that belongs to the model, relative to `path`, sorted.
        index_total_size: what the index says the tensors weigh, in bytes; None without an index.
        pickled: the weights are PyTorch pickles, which the caller allowed.
    """

    path: Path
    ref: str
    tensors: dict[str, TensorInfo]
    headers: dict[Path, Header]
    config: dict[str, Any] | None
    metadata: dict[str, str]
    side_files: tuple[Path, ...]
    index_total_size: int | None
    pickled: bool = False

    @property
    def folder(self) -> Path | None:
        """Folder of the checkpoint; None for a bare file."""
        return self.path if self.path.is_dir() else None

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(info.nbytes for info in self.tensors.values())

    def reader(self, digests: TensorDigests | None = None) -> Reader:
        """A context manager to read tensors with; files open at first use.

        Args:
            digests: told of whatever is read.
        """
        return Reader(self.tensors, self._open_source, digests)

    def _open_source(self, file: Path) -> Source:
        header = self.headers[file]
        if self.pickled:
            return PickleSource(file)
        return FileSource(file, (header.file_bytes, header.modified_ns))

    def identity(self) -> str:
        """SHA-256 (hexadecimal) of file names, sizes and headers; cheap, but blind to changed values."""
        parts = (
            f"{file.name}\0{header.file_bytes}\0{header.digest}" for file, header in self.headers.items()
        )
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) of file names and all bytes; reads everything.

        Raises:
            CheckpointError: a file can't be read.
        """
        return hash_files(self.headers)


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 of file names and contents, in the order given.

    Raises:
        CheckpointError: a file can't be read.
    """
    total = hashlib.sha256()
    for path in files:
        one = hashlib.sha256()
        for block in read_blocks(path):
            one.update(block)
        total.update(f"{path.name}\0{one.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def read_blocks(path: Path) -> Iterator[bytes]:
    """A file's contents in blocks, so that hashing a file takes the memory of one block.

    Raises:
        CheckpointError: the file can't be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                yield block
    except OSError as problem:
        raise CheckpointError(
            "the file can't be read", where=path, got=problem.strerror, hint=READABLE
        ) from None


def open_checkpoint(ref: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read the headers of a checkpoint; no tensor is read.

    Args:
        ref: a folder, a .safetensors file, or a hub id `org/name[@revision]`; a local path wins.
        allow_pickle: accept pytorch_model.bin when there is nothing else, loaded with `weights_only`.

    Raises:
        CheckpointError: not found, not a checkpoint, or inconsistent in any way a header can show.
    """
    path = locate(ref, allow_pickle=allow_pickle)
    if path.is_dir():
        return _open_folder(path, str(ref), allow_pickle)
    header = read_header(path)
    return Checkpoint(path, str(ref), _by_name([header]), {path: header}, None, header.metadata, (), None)


def _open_folder(folder: Path, ref: str, allow_pickle: bool) -> Checkpoint:
    weights = find_weights(folder, allow_pickle=allow_pickle)
    headers = {file: pickle_header(file) if weights.pickled else read_header(file) for file in weights.files}
    check_index(folder, weights, {file: header.tensors for file, header in headers.items()})
    return Checkpoint(
        path=folder,
        ref=ref,
        tensors=_by_name(headers.values()),
        headers=headers,
        config=_config(folder),
        metadata=next((header.metadata for header in headers.values()), {}),
        side_files=tuple(list_side_files(folder)),
        index_total_size=weights.index_total_size,
        pickled=weights.pickled,
    )


def _by_name(headers: Iterable[Header]) -> dict[str, TensorInfo]:
    found: Mapping[str, TensorInfo] = {
        name: info for header in headers for name, info in header.tensors.items()
    }
    return {name: found[name] for name in sorted(found)}


def _config(folder: Path) -> dict[str, Any] | None:
    if not (folder / "config.json").exists():
        return None
    path = member(folder, "config.json", folder)
    config = read_object(path, "model config")
    _check_kinds(path, config, _CONFIG_KINDS)
    for part in _PARTS:
        _check_kinds(path, config.get(part) or {}, _KINDS)
    return config


def _check_kinds(path: Path, config: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for key, kind in kinds.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            raise _strange(path, key, value, f"{kind.__name__}, or nothing")
    classes = config.get("architectures") or []
    if not all(isinstance(name, str) for name in classes):
        raise _strange(path, "architectures", classes, "names of classes")


def _strange(path: Path, key: str, value: object, expected: str) -> CheckpointError:
    got = repr(value)[:200]
    return CheckpointError(f"the config has a strange {key}", where=path, got=got, expected=expected)
