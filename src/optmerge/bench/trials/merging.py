"""One merge in a process of its own, and what it cost."""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from optmerge.engine.merge import Options
from optmerge.engine.merge import merge as merge_here
from optmerge.errors import MergeWarning, OptMergeError, RunError
from optmerge.methods import registered

SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Merge:
    """Cost of a merge.

    Args:
        seconds: wall time on one core, imports not counted.
        peak_bytes: anonymous memory at its peak, less that before the merge; None without /proc.
    """

    seconds: float
    peak_bytes: int | None


def merge(recipe: Mapping[str, Any], out: Path, *, device: str = "cpu") -> Merge:
    """Merges in a fresh process, forked from one that has imported everything and done nothing else.

    Args:
        recipe: as in `optmerge.merge`.
        out: a new folder.
        device: where tensors are merged.

    Raises:
        RunError: the merge failed; with its own message.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            __name__,
            "optmerge.methods._fast.kernels",
            *{each.function.__module__ for each in registered().values()},
        ]
    )
    ours, theirs = context.Pipe()
    process = context.Process(target=_merge, args=(theirs, dict(recipe), out, device), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
        idle = _anonymous_bytes(process.pid)
        ours.send(None)
        peak = idle or 0
        while not ours.poll(SAMPLE_SECONDS):
            peak = max(peak, _anonymous_bytes(process.pid) or 0)
        problem, seconds = ours.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise RunError(f"the process of the merge died with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if problem is not None:
        raise RunError(problem)
    return Merge(seconds, None if idle is None else peak - idle)


def _merge(pipe: Connection, recipe: dict[str, Any], out: Path, device: str) -> None:
    """Work of the process: sends that it is ready, waits, merges, sends how the merge went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    torch.set_num_threads(1)
    pipe.send(None)
    pipe.recv()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MergeWarning)  # a hundred merges say the same
            merge_here(recipe, out, Options(device=device))
        pipe.send((None, time.perf_counter() - started))
    except Exception as problem:
        words = str(problem) if isinstance(problem, OptMergeError) else f"{type(problem).__name__}: {problem}"
        pipe.send((words, 0.0))


def _anonymous_bytes(pid: int | None) -> int | None:
    """Anonymous resident memory of a process; None where that can't be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
