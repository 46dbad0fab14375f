"""The system that the program runs on: what it must be, and where it keeps what may be lost at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from optmerge.errors import InputError

CACHE = "OPTMERGE_CACHE"
"""Environment variable that names the cache folder."""


def require_posix(name: str = os.name) -> None:
    """Refuses a system without POSIX files: positioned reads and writes, locks, folders that can be synced.

    Args:
        name: as `os.name`.

    Raises:
        InputError: the system is Windows.
    """
    if name != "posix":
        raise InputError(
            "OptMerge doesn't run on Windows itself",
            got=sys.platform if name == os.name else name,
            expected="Linux or macOS",
            hint="use the Windows Subsystem for Linux (`wsl --install`), and install OptMerge in it",
        )


def cache_folder() -> Path | None:
    """Folder for what can be made again: `OPTMERGE_CACHE`, else `optmerge` in the user's cache folder.

    Nothing is created. None where there is neither the variable nor a home, as for a container's nameless
    user.
    """
    given = os.environ.get(CACHE)
    if given:
        return Path(given).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    if shared:
        return Path(shared).absolute() / "optmerge"
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.home raises where there is none)
    return Path(home) / ".cache" / "optmerge" if home.startswith("/") else None
