"""A run: jobs go to processes, results become records, sweeps become tests at the scale they choose."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from optmerge.bench.trials import trials
from optmerge.bench.trials.jobs import Job, failed
from optmerge.bench.trials.record_choice import SCALES, best_scale
from optmerge.bench.trials.trials import TrialResult
from optmerge.bench.trials.workers import WorkerError
from optmerge.checkpoints.locks import lock_alone


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Args:
        done: trials.
        total: trials known so far, and those that sweeps may still add.
        result: the latest.
        reused: whether the result was in the records already.
    """

    done: int
    total: int
    result: TrialResult
    reused: bool


class WorkerPool(Protocol):
    """Processes that do jobs, as `Workers(partial(examine.run, …), …)` is."""

    @property
    def full(self) -> bool:
        """Whether every process has a job."""

    @property
    def busy(self) -> bool:
        """Whether any process has a job."""

    def give(self, item: Job) -> None:
        """Starts a job; only where the pool isn't full."""

    def take(self) -> tuple[Job, TrialResult | WorkerError]:
        """Waits for the next job that ends; only where the pool is busy."""


def run(
    jobs: Sequence[Job],
    pool: WorkerPool,
    out: Path,
    scratch: Path,
    *,
    known: Iterable[TrialResult] = (),
    report: Callable[[RunProgress], None] = lambda progress: None,
) -> list[TrialResult]:
    """Does what isn't in the records yet; killed, it goes on from there when called again.

    Failed trials are tried again.

    Args:
        jobs: what to do; of one benchmark.
        pool: does the jobs, and records them in `out`.
        out: folder of the records.
        scratch: folder for merged models.
        known: results that are recorded elsewhere and needn't be worked out again.
        report: called after every trial.

    Returns:
        Every trial's result, those of earlier runs included.

    Raises:
        InputError: another run works in this scratch folder.
    """
    earlier = [*known]
    for benchmark in dict.fromkeys(job.trial.benchmark for job in jobs):
        earlier += trials.read_all(out, benchmark=benchmark)
    finished = {each.trial.identity(each.versions): each for each in earlier if each.error is None}
    waiting, sweeps = deque(jobs), _Sweeps()
    results: list[TrialResult] = []
    total = len(waiting) + sum(job.test is not None for job in waiting) // len(SCALES)
    wanted = {job.trial.identity() for job in waiting}

    def done(job: Job, result: TrialResult, *, reused: bool) -> None:
        nonlocal total
        results.append(result)
        chosen = sweeps.add(job, result)
        if chosen is not None and chosen.trial.identity() not in wanted:
            waiting.appendleft(chosen)
        elif sweeps.is_complete(job):
            total -= 1
        report(RunProgress(len(results), total, result, reused))

    with _alone(scratch):
        while waiting or pool.busy:
            while waiting and not pool.full:
                job = waiting.popleft()
                if recorded := finished.get(job.trial.identity()):
                    done(job, recorded, reused=True)
                else:
                    pool.give(job)
            if pool.busy:
                job, result = pool.take()
                if isinstance(result, WorkerError):
                    result = failed(job, result)
                    trials.write(result, out)
                done(job, result, reused=False)
    return results


class _Sweeps:
    """Results on the validation split, as they come in."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], dict[float, TrialResult]] = defaultdict(dict)
        self._jobs: dict[tuple[object, ...], dict[float, Job]] = defaultdict(dict)

    def add(self, job: Job, result: TrialResult) -> Job | None:
        """The test at the best scale, once the last scale of a sweep is there."""
        trial = job.trial
        if trial.split != "validation" or not isinstance(trial.scale, float):
            return None
        self._found[self._key(job)][trial.scale] = result
        self._jobs[self._key(job)][trial.scale] = job
        best = best_scale(self._found[self._key(job)]) if self.is_complete(job) else None
        if best is None:
            return None
        chosen = self._jobs[self._key(job)][best]
        return None if chosen.test is None else replace(chosen, trial=chosen.test, test=None)

    def is_complete(self, job: Job) -> bool:
        """Whether a job is part of a sweep that has a result at every scale."""
        return job.trial.split == "validation" and len(self._found[self._key(job)]) == len(SCALES)

    @staticmethod
    def _key(job: Job) -> tuple[object, ...]:
        return job.trial.line, job.trial.expert_set, job.trial.model


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """Keeps a second run out of the folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    what = "another run is at work in this folder"
    held = lock_alone(scratch / ".lock", what, where=scratch, option="--scratch")
    try:
        yield
    finally:
        held.close()
