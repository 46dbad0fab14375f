"""Worker threads, each on one core: they read, compute and write side by side, so that the three overlap."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Protocol, TypeVar

import torch

Item = TypeVar("Item")


class Each(Protocol):
    """Calls an action with each of some items, slices of a tensor for one: side by side, or in turn."""

    def __call__(self, action: Callable[[Item], None], items: Iterable[Item], /) -> None:
        """Returns when all is done."""


def one_after_another(action: Callable[[Item], None], items: Iterable[Item], /) -> None:
    """An `Each` for a thread that has its items to itself."""
    for item in items:
        action(item)


IN_FLIGHT = 4
"""Items per worker that may be waiting or running: enough to keep it busy, few enough to stop soon."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
_KEPT_BYTES = 32 << 20


class Pool:
    """Threads for slices, or for whole tensors side by side; a context manager.

    Inside, torch computes on one core per thread, so results don't depend on how many there are.

    Args:
        workers: number of threads; torch's own number by default.
        device: where they compute. On CUDA each has a stream of its own, so that one's copies overlap with
            another's kernels.
    """

    def __init__(self, workers: int | None = None, device: torch.device | None = None) -> None:
        self.workers = workers or torch.get_num_threads()

        def begin() -> None:
            torch.set_num_threads(1)
            if device is not None and device.type == "cuda":
                torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

        self._threads = ThreadPoolExecutor(self.workers, "slices", initializer=begin)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def each(self, action: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Runs an action on every item and waits; the first error in the order of the items is raised."""
        running: deque[Future[None]] = deque()
        try:
            for item in items:
                if len(running) >= IN_FLIGHT * self.workers:
                    running.popleft().result()
                running.append(self._threads.submit(action, item))
            while running:
                running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # what still runs mustn't meet files that are being closed


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep small freed blocks, where there is one.

    A slice's arrays are a megabyte each and live for a millisecond. By default each comes from the kernel,
    which clears every page of it, and that takes several times as long as the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, 2 * _KEPT_BYTES)
