"""How far a merge is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optmerge.engine.plan import Plan, TensorPlan

LINE_SECONDS = 10.0
"""Time between two lines in a log."""


@contextmanager
def progress_bar(plan: Plan, *, quiet: bool) -> Iterator[Callable[[TensorPlan, int], None] | None]:
    """A callback to tell of each finished tensor; None where nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar(plan)
    else:
        yield _lines(plan)


def _bar(plan: Plan) -> Iterator[Callable[[TensorPlan, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.fields[tensors]:>5} tensors"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("merge", total=plan.cost.bytes_written, tensors=0)
        done = 0

        def advance(tensor: TensorPlan, size: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=size, tensors=done)

        yield advance


def _lines(plan: Plan) -> Callable[[TensorPlan, int], None]:
    started = last = time.monotonic()
    tensors = written = 0

    def advance(tensor: TensorPlan, size: int) -> None:
        nonlocal last, tensors, written
        tensors, written = tensors + 1, written + size
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        rate = written / (now - started)
        left = (plan.cost.bytes_written - written) / rate if rate else 0.0
        print(
            f"{tensors} tensors, {written / 1e6:,.0f} of {plan.cost.bytes_written / 1e6:,.0f} MB, "
            f"{rate / 1e6:,.0f} MB/s, {left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return advance
