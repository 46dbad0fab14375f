"""Records of the benchmarks: what was run, on what, what came out and what it cost; one JSON object a line.

A file of records only grows. Appending is safe for several processes: a lock on the file keeps one record
from another. A process that is killed while it writes leaves a last line that is cut off; readers pass over
such a line, since its record was never finished, and the next `append` removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from optmerge.checkpoints.checkpoint import read_blocks
from optmerge.checkpoints.locks import waited_for
from optmerge.checkpoints.output_files import disk_errors
from optmerge.errors import CheckpointError, InputError

SCHEMA = 2
LIBRARIES = ("optmerge", "torch", "transformers", "tokenizers", "peft", "numpy", "easy-vqa")
OBJECTS = ("config", "seeds", "metrics", "cost", "weights", "versions")
"""Fields of a record that are JSON objects."""


@dataclass(frozen=True)
class Record:
    """One run.

    Args:
        kind: what was run (`capabilities/trial`, `full/train`).
        config: every setting that decides the result.
        seeds: name → seed.
        metrics: what came out: of a trial task → scores, of a training stage → last validation score.
        cost: wall time in seconds and the like; units in the names.
        weights: name → SHA-256 of the weights that were used or written.
        versions: library → version; filled in by `new`.
        created: UTC time, ISO 8601; filled in by `new`.
        schema: `SCHEMA`.
    """

    kind: str
    config: Mapping[str, Any]
    seeds: Mapping[str, int]
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    weights: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA


def new(**fields: Any) -> Record:
    """A record stamped with the time and the versions in use."""
    return Record(**fields, versions=versions(), created=now())


def now() -> str:
    """UTC time, ISO 8601, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def versions() -> dict[str, str]:
    """Versions in use: of Python, of the kind of machine, and of `LIBRARIES`."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | {name: _version(name) for name in LIBRARIES}


def source_tree() -> Path | None:
    """Folder of the source tree that this package runs from; None where it is installed by itself."""
    package = Path(__file__).resolve().parents[1]
    tree = package.parents[1]
    return tree if package.parent.name == "src" and (tree / "pyproject.toml").is_file() else None


def shipped(benchmark: str) -> list[Path]:
    """Folder `results/BENCHMARK` of the source tree that this package runs from; none in an installed wheel.

    Args:
        benchmark: folder name: `bench`, `omni`.
    """
    tree = source_tree()
    return [tree / "results" / benchmark] if tree and (tree / "results" / benchmark).is_dir() else []


def append(value: Record | Mapping[str, Any], file: Path) -> None:
    """Adds a record as the last line of a file; earlier lines are never changed.

    Args:
        value: a record, or another object that JSON can hold.
        file: made with its folder if need be.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the file can't be written.
    """
    plain = asdict(value) if isinstance(value, Record) else value
    line = json.dumps(plain, allow_nan=False).encode() + b"\n"
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as opened, waited_for(opened, file):
            _mend(opened)
            while line:
                line = line[os.write(descriptor, line) :]


def _mend(file: BinaryIO) -> None:
    """Removes a last line that is cut off; one that lacks nothing but its line feed gets it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole, _, last = file.read().rpartition(b"\n")
    if _is_json(last):
        file.write(b"\n")
    else:
        file.truncate(len(whole) + 1 if whole else 0)


def read(file: Path) -> list[Record]:
    """The records of a file, oldest first; a last line that is cut off is passed over.

    Raises:
        InputError: another line isn't a record, or is one of another schema; with file and line number.
    """
    with file.open("rb") as opened, waited_for(opened, file, shared=True):
        # What another process appends right now is read whole or not at all.
        lines = opened.read().split(b"\n")
    last = lines.pop()
    if _is_json(last):
        lines.append(last)
    return [_record(line, place(file, number)) for number, line in enumerate(lines, 1)]


def place(file: Path, number: int) -> str:
    """Where a record stands, for messages.

    Args:
        file: of the record.
        number: of its line, from 1.
    """
    return f"{file}, line {number}"


def _record(line: bytes, where: str) -> Record:
    try:
        record = Record(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise InputError(
            "this isn't a benchmark record",
            where=where,
            got=error,
            hint="restore the file, or remove the line and run again",
        ) from error
    for name in OBJECTS:
        if not isinstance(getattr(record, name), dict):
            raise InputError(
                "a record's field has the wrong type", where=f"{where}: {name}", expected="object"
            )
    if record.schema != SCHEMA:
        raise InputError("a record of another schema", where=where, got=record.schema, expected=SCHEMA)
    return record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def weights_hash(folder: Path) -> str:
    """SHA-256 over the contents of a checkpoint folder's safetensors files, in name order; read in blocks.

    Raises:
        CheckpointError: there are no such files, or one can't be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            "there are no weights here",
            where=folder,
            expected="safetensors files",
            hint="copy or train the model again, or correct the path",
        )
    digest = hashlib.sha256()
    for path in files:
        for block in read_blocks(path):
            digest.update(block)
    return digest.hexdigest()


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
