"""Compiled loops: numba's, without the interpreter lock, cached on disk wherever there is a place for it.

numba itself refuses a function whose cache has no folder, as in a read-only installation without a home, and
ends in a traceback where a full disk or a damaged file keeps it from its cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

from optmerge._system import CACHE, cache_folder

Function = TypeVar("Function", bound=Callable[..., Any])

_config: Any = numba.config
_problems: list[str] = []


def compiled(function: Function) -> Function:
    """The function compiled at its first call, or read from the cache of an earlier process.

    The cache lies beside the source or where NUMBA_CACHE_DIR says, else in `cache_folder()`. Where neither
    can be written to, the function is compiled in memory, once a process.
    """
    dispatcher: Any = numba.njit(nogil=True)(function)
    cache = _cache(function)
    if cache is not None:
        dispatcher._cache = cache
    else:
        _note("no folder can be written to")
    found: Function = dispatcher
    return found


def uncached() -> str | None:
    """Why compiled loops aren't kept for the next process; None where they are."""
    if not _problems:
        return None
    return (
        f"compiled loops can't be kept on disk ({_problems[0]}), so every process compiles them again, for "
        f"some seconds; set {CACHE} to a folder that can be written to"
    )


def _cache(function: Callable[..., Any]) -> _Cache | None:
    own = cache_folder()
    folders = [_config.CACHE_DIR] if _config.CACHE_DIR or _writable(function) else []
    folders += [str(own / "numba")] if own is not None else []
    for folder in folders:
        try:
            with _cached_in(folder):
                return _Cache(function)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):
            continue
    return None


def _writable(function: Callable[..., Any]) -> bool:
    """Whether numba may put its cache beside the source."""
    return os.access(Path(function.__code__.co_filename).parent, os.W_OK)


@contextmanager
def _cached_in(folder: str) -> Any:
    """Has numba keep what it compiles in a folder; where the folder is empty text, where it always does."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = folder
    try:
        yield
    finally:
        _config.CACHE_DIR = before


class _Cache(FunctionCache):
    """A function's cache that may fail at any time: then the function is compiled, or not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature; None where it isn't there or can't be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception:  # a damaged file raises whatever unpickling it raises
            with suppress(Exception):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps a compiled function, if it can be."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as problem:
            _note(getattr(problem, "strerror", None) or type(problem).__name__)


def _note(problem: str) -> None:
    if problem not in _problems:
        _problems.append(problem)
