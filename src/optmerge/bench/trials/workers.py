"""Processes that work side by side, one core each; one that dies takes nothing with it but its own item."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


class WorkerError(Exception):
    """A process ended in the middle of an item: out of memory, as a rule."""


class Workers(Generic[Item, Value]):
    """Processes that apply a function to items; a context manager, which ends them.

    Args:
        function: of a module, so that a new process can import it.
        number: of processes.
    """

    def __init__(self, function: Callable[[Item], Value], number: int) -> None:
        self.number = number
        self._function = function
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Item] = {}

    def __enter__(self) -> Workers[Item, Value]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()

    @property
    def full(self) -> bool:
        """Whether every process has something to do."""
        return len(self._busy) >= self.number

    @property
    def busy(self) -> bool:
        """Whether any has."""
        return bool(self._busy)

    def give(self, item: Item) -> None:
        """Has a process work on an item; only where not `full`."""
        worker = self._idle.pop() if self._idle else _Worker(self._function)
        worker.pipe.send(item)
        self._busy[worker] = item

    def take(self) -> tuple[Item, Value | WorkerError]:
        """Waits for the next item that is done; only where `busy`."""
        ready = wait([worker.pipe for worker in self._busy])[0]
        worker = next(each for each in self._busy if each.pipe is ready)
        item = self._busy.pop(worker)
        try:
            value: Value = worker.pipe.recv()
        except (EOFError, ConnectionError):
            return item, WorkerError(f"the process died with exit code {worker.stop()}")
        self._idle.append(worker)
        return item, value


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, function: Callable[[Item], Value]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, function))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.process.start()
        theirs.close()

    def stop(self) -> int | None:
        """Ends the process; returns its exit code."""
        self.pipe.close()
        self.process.join(0.2)
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def _work(pipe: Connection, function: Callable[[Item], Value]) -> None:
    """What a process does until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            item = pipe.recv()
            pipe.send(function(item))
        except (EOFError, ConnectionError):
            return
