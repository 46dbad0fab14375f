"""Processes that work side by side, one core each; a process that dies loses nothing but its own item."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from optmerge.errors import InputError

_ERROR = re.compile(r"^(\w[\w.]*(Error|Exception)|error)\b", re.MULTILINE)
"""How the last part of a traceback, or a message of the command line, begins."""
_DYING = 10.0
"""Seconds that a process which has closed its pipe may take to end."""
_LONGEST = 1 << 20
"""Bytes that a process may write to its error stream while it starts."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class WorkerError(Exception):
    """A process ended while it started or in the middle of an item; in its own words where there are any."""


class Workers(Generic[Item, Value]):
    """Processes that apply a function to items; a context manager, which ends the processes.

    Args:
        function: what `pickle` can send to a new process: one of a module, or a `partial` of one.
        number: of processes.

    Raises:
        InputError: the process is itself one that starts, since a new process runs its script's top level.
    """

    def __init__(self, function: Callable[[Item], Value], number: int) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise InputError(
                "the script starts its own run again in every new process",
                where=getattr(sys.modules["__main__"], "__file__", None),
                hint="put what the script calls under `if __name__ == '__main__':`",
            )
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
        """Whether any process has something to do."""
        return bool(self._busy)

    def give(self, item: Item) -> None:
        """Starts work on an item; only where the pool isn't `full`."""
        worker = self._idle.pop() if self._idle else _Worker(self._function)
        with suppress(ConnectionError):  # of a process that is dead already, which `take` finds out
            worker.pipe.send(item)
        self._busy[worker] = item

    def take(self) -> tuple[Item, Value | WorkerError]:
        """Waits for the next item that is done or lost; only where `busy`."""
        ready = wait([worker.pipe for worker in self._busy])[0]
        worker = next(each for each in self._busy if each.pipe is ready)
        item = self._busy.pop(worker)
        try:
            value: Value = worker.pipe.recv()
        except (EOFError, ConnectionError):
            return item, WorkerError(
                f"the process died with exit code {worker.stop(_DYING)}{worker.last_words}"
            )
        self._idle.append(worker)
        return item, value


class _Worker:
    """One process and the pipe to it.

    What the process writes to its error stream while it starts is kept, since a process that can't import
    what it needs says so there and nowhere else.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._errors = TemporaryFile()  # noqa: SIM115 - open as long as the process
        self.last_words = ""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        resource_tracker.ensure_running()  # with the error stream as it is
        with _error_stream(self._errors) as own:
            arguments = theirs, function, _Descriptor(own)
            self.process: SpawnProcess = context.Process(target=_work, args=arguments)
            self.process.start()
        theirs.close()

    def stop(self, seconds: float = 0.2) -> int | None:
        """Ends the process; returns its exit code.

        Args:
            seconds: that the process has to end by itself.
        """
        self.pipe.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        with self._errors:
            self._errors.seek(0)
            self.last_words = _last_words(self._errors.read().decode(errors="replace").strip())
        return self.process.exitcode


def _last_words(text: str) -> str:
    """The error that ended a process while it started, after a colon; empty where it started well."""
    starts = [match.start() for match in _ERROR.finditer(text)]
    words = " ".join(text[starts[-1] if starts else 0 :].split())
    return f": {words}" if words else ""


class _Descriptor:
    """A file descriptor on its way to a new process, where it arrives as a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detached, (reduction.DupFd(self.number),)


def _detached(handle: Any) -> int:
    number: int = handle.detach()
    return number


@contextmanager
def _error_stream(file: IO[bytes]) -> Iterator[int]:
    """Sends what goes to file descriptor 2 to a file; gives a descriptor of what it was before."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield before
    finally:
        os.dup2(before, 2)
        os.close(before)


def _work(pipe: Connection, function: Callable[[Any], Any], errors: int) -> None:
    """What a process does until the pipe is closed.

    Args:
        pipe: brings items and takes what becomes of them.
        function: applied to each.
        errors: descriptor of the error stream, once the process has started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    import torch

    torch.set_num_threads(1)
    sys.stderr.flush()
    os.write(errors, os.pread(2, _LONGEST, 0))  # warnings, say
    os.ftruncate(2, 0)
    os.dup2(errors, 2)
    os.close(errors)
    while True:
        try:
            item = pipe.recv()
            pipe.send(function(item))
        except (EOFError, ConnectionError):
            return
