"""Where an output's base lies on this machine: noted in the cache folder, since outputs are published."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from optmerge._system import cache_folder
from optmerge.checkpoints.output_files import write_file
from optmerge.errors import OptMergeError


def remember_base(fingerprint: str, base: Path) -> None:
    """Notes in the cache folder where the base of a merge lies; where nothing can be noted, nothing is."""
    note = _note(fingerprint)
    if note is None:
        return
    with suppress(OSError, OptMergeError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_file(note, str(base.absolute()).encode("utf-8", "surrogateescape"))


def remembered_base(fingerprint: str) -> Path | None:
    """Where the base of a merge was; None where nobody remembers."""
    note = _note(fingerprint)
    try:
        return None if note is None else Path(note.read_bytes().decode("utf-8", "surrogateescape"))
    except OSError:
        return None


def _note(fingerprint: str) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()
    return None if folder is None else folder / "bases" / name
