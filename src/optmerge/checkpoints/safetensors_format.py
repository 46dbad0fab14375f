"""The safetensors format: headers in and out, checked byte by byte.

A file is an 8-byte little-endian length, a JSON object of that length that gives each tensor's dtype, shape
and byte range, and the tensors' bytes without gap or overlap. Source: github.com/huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from optmerge.checkpoints.dtypes import DTYPES, RANKS
from optmerge.checkpoints.json_files import parse_object
from optmerge.checkpoints.paths import READABLE, require_regular_file, seems_to_be
from optmerge.errors import CheckpointError

HEADER_LIMIT_BYTES = 100_000_000
_ALIGNMENT = 8
_NAME_LIMIT = 1000  # the rules that names are judged by take time quadratic in their length
_DIMENSIONS_LIMIT = 64  # what torch's own iterators stop at
_CONVERT = "download the file again, or convert it with safetensors.torch.save_file"


class TensorSpec(NamedTuple):
    """A tensor before it has a place: name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file.

    Args:
        name: as the file spells it.
        dtype: safetensors name, a key of `DTYPES`.
        shape: dimensions, outermost first.
        file: where it is.
        begin: absolute offset of its first byte.
        end: absolute offset after its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Args:
        tensors: by name, in the order of their bytes.
        metadata: free text pairs.
        digest: SHA-256 of the header's bytes, length included, in hexadecimal.
        file_bytes: size of the file.
        modified_ns: time of last change, to notice one while reading.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    digest: str
    file_bytes: int
    modified_ns: int


def read_header(path: Path) -> Header:
    """Read and check a file's header; no tensor is read.

    Raises:
        CheckpointError: not a regular file, not safetensors, or any byte of it inconsistent.
    """
    status = require_regular_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(64)
            size = int.from_bytes(start[:8], "little")
            _check_start(path, start, size, status.st_size)
            file.seek(8)
            raw = file.read(size)
    except OSError as problem:
        raise CheckpointError(
            "the file can't be read", where=path, got=problem.strerror, hint=READABLE
        ) from None
    if len(raw) < size:
        hint = "nothing may write to the checkpoint while it is read; start again"
        raise CheckpointError("the file shrank while it was read", where=path, hint=hint)
    entries = parse_object(raw, path, "safetensors header")
    metadata = _metadata(path, entries.pop("__metadata__", None))
    tensors = _tensors(path, entries, first=8 + size, end_of_file=status.st_size)
    digest = hashlib.sha256(start[:8] + raw).hexdigest()
    return Header(tensors, metadata, digest, status.st_size, status.st_mtime_ns)


def _check_start(path: Path, start: bytes, size: int, file_bytes: int) -> None:
    if file_bytes < 8:
        raise _not_safetensors(path, start, f"{file_bytes} bytes")
    if size > min(HEADER_LIMIT_BYTES, file_bytes - 8):
        raise _not_safetensors(path, start, f"a header of {size} bytes in a file of {file_bytes}")
    if start[8:9] != b"{":
        raise _not_safetensors(path, start, f"a header that starts with {start[8:16]!r}")


def _not_safetensors(path: Path, start: bytes, got: str) -> CheckpointError:
    guess = seems_to_be(start)
    if guess:
        hint = "give its folder, or a .safetensors file" if path.suffix == ".json" else _CONVERT
        return CheckpointError(
            "not a safetensors file", where=path, got=f"what seems to be {guess}", hint=hint
        )
    expected = f"an 8-byte length ≤ {HEADER_LIMIT_BYTES} and a JSON header of that length"
    return CheckpointError("not a safetensors file", where=path, got=got, expected=expected, hint=_CONVERT)


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(_is_text(text) for pair in value.items() for text in pair):
        raise CheckpointError("__metadata__ must map text to text", where=path, hint=_CONVERT)
    return value


def _is_text(value: object) -> bool:
    """Whether a value is Unicode text: JSON can also spell half a character, a lone surrogate."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _tensors(path: Path, entries: dict[str, Any], first: int, end_of_file: int) -> dict[str, TensorInfo]:
    infos = sorted((_info(path, name, entry, first) for name, entry in entries.items()), key=_place)
    end = first
    for info in infos:
        if info.begin != end:
            fault = "overlaps the one before" if info.begin < end else "leaves a gap before it"
            raise _bad(path, info.name, f"its place {fault}", info.begin - first, end - first)
        end = info.end
    if end != end_of_file:
        got, expected = f"{end_of_file} bytes", f"{end} bytes (header and tensors)"
        hint = "the file is truncated or has been appended to; download it again"
        raise CheckpointError("the file's size is wrong", where=path, got=got, expected=expected, hint=hint)
    return {info.name: info for info in infos}


def _place(info: TensorInfo) -> tuple[int, int]:
    return info.begin, info.end


def _info(path: Path, name: str, entry: Any, first: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, name, "its entry is malformed", entry, "dtype, shape and data_offsets")
    if not _is_text(name):
        raise _bad(path, ascii(name), "its name isn't Unicode text", None, "no lone surrogates")
    if len(name) > _NAME_LIMIT:
        raise _bad(path, name, "its name is too long", len(name), f"at most {_NAME_LIMIT} characters")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _bad(path, name, "its dtype isn't supported", dtype, ", ".join(DTYPES))
    if not _naturals(shape) or len(shape) > _DIMENSIONS_LIMIT or prod(max(n, 1) for n in shape) >= 2**63:
        raise _bad(path, name, "its shape is wrong", shape, "non-negative integers, fewer than 2⁶³ elements")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(path, name, "its data_offsets are wrong", offsets, "[begin, end], 0 ≤ begin ≤ end")
    needed = prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise _bad(path, name, "its size is wrong", f"{offsets[1] - offsets[0]} bytes", f"{needed} bytes")
    return TensorInfo(name, dtype, tuple(shape), path, first + offsets[0], first + offsets[1])


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _bad(path: Path, name: str, fault: str, got: object, expected: object) -> CheckpointError:
    shown = None if got is None else str(got)[:200]
    return CheckpointError(
        f"tensor {name[:200]}: {fault}", where=path, got=shown, expected=expected, hint=_CONVERT
    )


def _library_order(spec: TensorSpec) -> tuple[int, str]:
    return -RANKS[spec.dtype], spec.name


def encode_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """The header of a file that holds these tensors, as the safetensors library (0.8) writes it.

    The library puts wide element types first, so that every tensor is aligned, and sorts by name within a
    type; it pads the header with spaces to a multiple of 8 bytes. It writes metadata in no fixed order;
    here it is sorted.

    Args:
        tensors: (name, safetensors dtype, shape), in any order.
        metadata: text pairs; None leaves them out.

    Returns:
        The header with its length, and each tensor's offset from the start of the file, in file order.
    """
    specs = sorted((TensorSpec(*tensor) for tensor in tensors), key=_library_order)
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    begin, begins = 0, {}
    for spec in specs:
        end = begin + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
        begins[spec.name], begin = begin, end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in begins.items()}
