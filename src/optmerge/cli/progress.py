"""How far a merge is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optmerge.engine.merge import Watch
    from optmerge.engine.plan import Plan, Progress, TensorPlan

LINE_SECONDS = 10.0
"""Time between two lines in a log."""

TOLD_FROM = 0.01
"""Share of the work to be done before a guess is made of the time left."""


def progress_bar(resumed: Path | None = None, *, quiet: bool) -> Watch:
    """Shows how far a merge is.

    Args:
        resumed: folder of an interrupted merge that goes on; None for a merge from the start.
        quiet: show nothing.
    """

    def watch(plan: Plan) -> AbstractContextManager[Progress | None]:
        from optmerge.engine.output.folder import written_before

        return _shown(plan, written_before(resumed) if resumed else (), quiet)

    return watch


@contextmanager
def _shown(plan: Plan, before: Collection[str], quiet: bool) -> Iterator[Progress | None]:
    if quiet:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        yield from _bar(Meter(plan, before))
    else:
        yield _lines(Meter(plan, before))


class Meter:
    """Counts tensors and bytes, and puts them into words.

    Args:
        plan: of the merge.
        before: tensors that an interrupted run has written.
    """

    def __init__(self, plan: Plan, before: Collection[str]) -> None:
        from optmerge.checkpoints.dtypes import DTYPES

        adapter = plan.recipe.output.format == "adapter"
        actions = ("merge",) if adapter else ("merge", "copy")
        done = [tensor for tensor in plan.tensors if tensor.name in before]
        self.tensors, self.all_tensors = len(done), sum(each.action in actions for each in plan.tensors)
        self.bytes = sum(prod(each.shape) * DTYPES[each.out_dtype].itemsize for each in done)
        self.all_bytes = max(1, plan.cost.bytes_written)
        self._bytes_before, self._started = self.bytes, time.monotonic()

    def add(self, size: int) -> None:
        """Counts one tensor."""
        self.tensors += 1
        self.bytes += size

    def words(self) -> str:
        """As in `65/71 tensors, 461.4 MB of 503.3 MB, 238.6 MB/s, 1 s left`."""
        from optmerge.cli.console import size_words, time_words

        found = [
            f"{self.tensors}/{self.all_tensors} tensors",
            f"{size_words(self.bytes)} of {size_words(self.all_bytes)}",
        ]
        written = self.bytes - self._bytes_before
        if written >= TOLD_FROM * (self.all_bytes - self._bytes_before):
            rate = written / max(1e-9, time.monotonic() - self._started)
            left = max(0, self.all_bytes - self.bytes) / max(1e-9, rate)
            found += [f"{size_words(rate)}/s", f"{time_words(left)} left"]
        return ", ".join(found)


def _bar(meter: Meter) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        TimeElapsedColumn(),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(meter.words(), total=meter.all_bytes, completed=meter.bytes)

        def advance(tensor: TensorPlan, size: int) -> None:
            meter.add(size)
            bar.update(task, completed=meter.bytes, description=meter.words())

        yield advance


def _lines(meter: Meter) -> Progress:
    last = time.monotonic()

    def advance(tensor: TensorPlan, size: int) -> None:
        nonlocal last
        meter.add(size)
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            print(meter.words(), file=sys.stderr, flush=True)

    return advance
