"""Running a command and what it cost; the limits it stands beside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

BLOCK = 1 << 22
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds, processor time in seconds, peak anonymous memory in bytes."""

    wall_seconds: float
    cpu_seconds: float
    peak_anonymous_bytes: int


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> Cost:
    """Runs a command to its end; raises `RuntimeError` with its output where it fails."""
    started = time.monotonic()
    before = os.times()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    peak = [0]
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, stop))
    watcher.start()
    output, _ = process.communicate()
    wall = time.monotonic() - started
    stop.set()
    watcher.join()
    after = os.times()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, cpu, peak[0])


def _watch(pid: int, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_SECONDS):
        peak[0] = max(peak[0], anonymous_bytes(pid))


def anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def idle() -> Cost:
    """The interpreter with everything a merge imports, and nothing done."""
    return run([sys.executable, "-c", "import optmerge.engine.merge, time; time.sleep(0.2)"])


def io_limit(inputs: Iterable[Path], output_bytes: int, scratch: Path) -> float:
    """Seconds to read every input byte once, write as many bytes as the output has, and fsync."""
    buffer = bytearray(BLOCK)
    started = time.monotonic()
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with scratch.open("wb", buffering=0) as file:
        left = output_bytes
        while left > 0:
            left -= file.write(memoryview(buffer)[: min(BLOCK, left)])
        os.fsync(file.fileno())
    seconds = time.monotonic() - started
    scratch.unlink()
    return seconds


def matmul_rate(dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """Floating-point operations per second of a large matrix product; best of five."""
    left, right = torch.randn(2, size, size, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.monotonic()
        _ = left @ right
        best = min(best, time.monotonic() - started)
    return 2 * size**3 / best
