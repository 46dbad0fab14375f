"""JSON from untrusted files: size is bounded, names are unique, depth and encoding are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optmerge.checkpoints.paths import READABLE, require_regular_file
from optmerge.errors import CheckpointError, InputError

LIMIT_BYTES = 100_000_000
_DAMAGED = "the file is damaged, or isn't what its name says: download it again, or save it again"


def parse_object(
    data: bytes, where: object, what: str, error: type[InputError] = CheckpointError
) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        data: UTF-8 text.
        where: file named in errors.
        what: what the text is, for the message ("header", "index", …).
        error: the class raised.

    Raises:
        InputError: of class `error`; not UTF-8, not JSON, too deep, a name twice, not an object.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except UnicodeDecodeError as problem:
        raise error(
            f"the {what} isn't UTF-8 text", where=where, got=f"byte {problem.start}", hint=_DAMAGED
        ) from None
    except RecursionError:
        raise error(f"the {what} is nested too deeply", where=where, hint=_DAMAGED) from None
    except ValueError as problem:  # includes JSONDecodeError and integers of thousands of digits
        raise error(
            f"the {what} can't be parsed", where=where, got=problem, expected="JSON", hint=_DAMAGED
        ) from None
    if not isinstance(value, dict):
        raise error(
            f"the {what} isn't a JSON object",
            where=where,
            got=type(value).__name__,
            expected="{…}",
            hint=_DAMAGED,
        )
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r} occurs twice")
    return result


def read_object(path: Path, what: str, error: type[InputError] = CheckpointError) -> dict[str, Any]:
    """Read and parse a file that holds one JSON object, 100 MB at most.

    Raises:
        InputError: of class `error`; not a readable regular file, too large, or as `parse_object`.
    """
    size = require_regular_file(path, error).st_size
    if size > LIMIT_BYTES:
        raise error(
            f"the {what} is too large",
            where=path,
            got=f"{size} bytes",
            expected=f"≤ {LIMIT_BYTES}",
            hint=_DAMAGED,
        )
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise error(f"the {what} can't be read", where=path, got=problem.strerror, hint=READABLE) from None
    return parse_object(data, path, what, error)
