"""Append-only JSON records of benchmark runs: what was run, on what, what came out and what it cost."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from optmerge.errors import CheckpointError, InputError

SCHEMA = 1
LIBRARIES = ("optmerge", "torch", "transformers", "tokenizers", "peft", "numpy", "easy-vqa")


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        kind: what was run ("bench/cell", "full/train").
        config: every setting that decides the result.
        seeds: name → seed.
        metrics: model → column → value; shares in [0, 1].
        cost: wall time in seconds and the like; units in the names.
        weights: name → SHA-256 of the weights used or written.
        versions: library → version; filled in by `new`.
        created: UTC time, ISO 8601; filled in by `new`.
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
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    return Record(**fields, versions=versions(), created=created)


def versions() -> dict[str, str]:
    """What is in use: Python, the kind of machine, and `LIBRARIES`."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | {name: _version(name) for name in LIBRARIES}


def write(record: Record, folder: Path) -> Path:
    """Write `<time>-<kind>-<hash>.json` into `folder`; an existing record is never changed."""
    text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
    stamp = record.created.replace(":", "").replace("-", "")[:15]
    name = f"{stamp}-{record.kind.replace('/', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("x", encoding="utf-8") as file:
        file.write(text)
    return folder / name


def read(path: Path) -> Record:
    """A record from its file; unknown, missing or wrongly typed keys are an error."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**value)
    except (TypeError, ValueError) as error:
        raise InputError("this isn't a benchmark record", where=path, got=error) from error
    for name in ("config", "seeds", "metrics", "cost", "weights", "versions"):
        if not isinstance(getattr(record, name), dict):
            raise InputError(
                "a record's field has the wrong type", where=f"{path}: {name}", expected="object"
            )
    if record.schema != SCHEMA:
        raise InputError("a record of another schema", where=path, got=record.schema, expected=SCHEMA)
    return record


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of a checkpoint folder, in name order.

    Raises:
        CheckpointError: there are none.
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
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
