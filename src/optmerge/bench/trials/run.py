"""A run: jobs go to processes, results become records, sweeps become tests at the scale they choose."""

from __future__ import annotations

import fcntl
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optmerge.bench.trials import cells
from optmerge.bench.trials.cells import Result
from optmerge.bench.trials.errands import Errand, failed
from optmerge.bench.trials.orders import Job, Order, test_of
from optmerge.bench.trials.selection import SCALES, best_scale
from optmerge.bench.trials.workers import WorkerError
from optmerge.errors import InputError


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        done: cells.
        total: cells known so far, and those that sweeps may still add.
        result: the latest.
        reused: whether it was in the records already.
    """

    done: int
    total: int
    result: Result
    reused: bool


class Pool(Protocol):
    """What `Workers(examine.run, …)` is."""

    @property
    def full(self) -> bool:
        """Whether nothing more can be given now."""

    @property
    def busy(self) -> bool:
        """Whether there is something to take."""

    def give(self, item: Errand) -> None:
        """Starts an errand."""

    def take(self) -> tuple[Errand, Result | WorkerError]:
        """Waits for one."""


def run(
    order: Order,
    pool: Pool,
    out: Path,
    scratch: Path,
    *,
    n: int,
    keep: bool = False,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
    kind: str = cells.CAPABILITIES,
    test_of: Callable[[Job, int], Job] = test_of,
) -> list[Result]:
    """Does what isn't in the records yet; killed, it goes on from there when called again.

    Failed cells are tried again.

    Args:
        order: what to do.
        pool: who does it.
        out: folder of the records.
        scratch: folder for merged models.
        n: test questions a task, for the scales that sweeps choose.
        keep: leave merged models and answers in `scratch`.
        device: of torch, where models are merged and answer.
        report: called after every cell.
        kind: of the benchmark's records.
        test_of: (validation job, questions) → the test of what it tries.

    Returns:
        Every cell's result, those of earlier runs included.

    Raises:
        InputError: another run works in this scratch folder.
    """
    finished = {
        each.cell.identity(each.versions): each for each in cells.read_all(out, kind) if each.error is None
    }
    waiting, sweeps, results = deque(order.jobs), _Sweeps(n, test_of), []
    total = len(waiting) + sum(job.cell.split == "validation" for job in waiting) // len(SCALES)
    known = {job.cell.identity() for job in waiting}

    def done(job: Job, result: Result, *, reused: bool) -> None:
        nonlocal total
        results.append(result)
        chosen = sweeps.add(job, result)
        if chosen is not None and chosen.cell.identity() not in known:
            waiting.appendleft(chosen)
        elif sweeps.complete(job):
            total -= 1
        report(Progress(len(results), total, result, reused))

    with _alone(scratch):
        while waiting or pool.busy:
            while waiting and not pool.full:
                job = waiting.popleft()
                if earlier := finished.get(job.cell.identity()):
                    done(job, earlier, reused=True)
                else:
                    pool.give(Errand(job, out, scratch, keep, device))
            if pool.busy:
                errand, result = pool.take()
                if isinstance(result, WorkerError):
                    result = failed(errand.job, result)
                    cells.write(result, out, kind)
                done(errand.job, result, reused=False)
    return results


class _Sweeps:
    """Validation results as they come in."""

    def __init__(self, n: int, test_of: Callable[[Job, int], Job]) -> None:
        self._n, self._test_of = n, test_of
        self._found: dict[tuple[object, ...], dict[float, Result]] = defaultdict(dict)
        self._jobs: dict[tuple[object, ...], dict[float, Job]] = defaultdict(dict)

    def add(self, job: Job, result: Result) -> Job | None:
        """The test at the best scale, once the last scale of a sweep is there."""
        cell = job.cell
        if cell.split != "validation" or cell.scale is None:
            return None
        self._found[self._key(job)][cell.scale] = result
        self._jobs[self._key(job)][cell.scale] = job
        best = best_scale(self._found[self._key(job)]) if self.complete(job) else None
        return None if best is None else self._test_of(self._jobs[self._key(job)][best], self._n)

    def complete(self, job: Job) -> bool:
        """Whether a validation job's sweep is."""
        return job.cell.split == "validation" and len(self._found[self._key(job)]) == len(SCALES)

    @staticmethod
    def _key(job: Job) -> tuple[object, ...]:
        return job.cell.line, job.cell.expert_set, job.cell.model


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """Keeps a second run out of the folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "another run is at work in this folder",
                where=scratch,
                hint="wait for it, or choose another --scratch",
            ) from error
        yield
