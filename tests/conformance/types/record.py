"""What came of every model type when it was last tried: record.json, and its totals.

The slow tests try every type again and hold it against the record; so the record is the list of what fails,
and it changes only together with what the product does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from conformance.types.examine import examine, quiet
from worlds.model_types import TYPES

FILE = Path(__file__).with_name("record.json")

Record = dict[str, dict[str, str]]


def read() -> Record:
    """Type → what isn't right, and `way`; `unbuildable` alone where transformers can't build it."""
    return json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}


def tried(names: Iterable[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Tries some types, or all, and writes each to the record."""
    wanted = list(names) or list(TYPES)
    for name in wanted:
        row = tried_once(name)
        now = {**read(), name: row}
        FILE.write_text(json.dumps({key: now[key] for key in TYPES if key in now}, indent=1) + "\n", "utf-8")
        yield name, row


def tried_once(name: str) -> dict[str, str]:
    """What comes of one type now, in a folder of its own; `unbuildable` where a package is missing."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            return examine(name, Path(folder)).plain()
        except ImportError as problem:
            return {"unbuildable": " ".join(str(problem).split(". ")[0].split())}


def totals(record: Record) -> dict[str, Any]:
    """How many types are right in each respect, of how many."""
    built = [row for row in record.values() if "unbuildable" not in row]
    adapted = [row for row in built if _adapted(row)]

    def right(part: str, rows: list[dict[str, str]] = built) -> dict[str, int]:
        return {"right": sum(part not in row for row in rows), "of": len(rows)}

    adapters = right("adapter", adapted)
    adapters["refused"] = sum(row.get("adapter", "").startswith("refused") for row in adapted)
    adapters["wrong"] = adapters["of"] - adapters["right"] - adapters["refused"]
    parts = ("default", "components", "kinds", "merge", "verify", "load")
    return {
        "types": len(record),
        "built": len(built),
        "ways": _counted(row["way"] for row in built),
        **{part: right(part) for part in parts},
        "adapter": adapters,
    }


def _adapted(row: Mapping[str, str]) -> bool:
    return not row.get("adapter", "").startswith(("no layer", "PEFT can't"))


def _counted(values: Iterable[str]) -> dict[str, int]:
    found = sorted(values)
    return {value: found.count(value) for value in dict.fromkeys(found)}


def markdown(found: Mapping[str, Any]) -> str:
    """The totals as a table."""
    rows = [
        f"| {part} | {each['right']} of {each['of']} |"
        for part, each in found.items()
        if "of" in _as_dict(each)
    ]
    adapter = found["adapter"]
    ways = ", ".join(f"{count} {way}" for way, count in found["ways"].items())
    return "\n".join(
        [
            f"{found['built']} of {found['types']} types built; roles: {ways}.",
            "",
            "| | right |",
            "|---|---|",
            *rows,
            "",
            f"Adapters: {adapter['refused']} refused, {adapter['wrong']} wrong.",
        ]
    )


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
