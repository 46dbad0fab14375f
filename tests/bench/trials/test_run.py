"""The loop of a run, with made-up answers: what is done, what is left, what happens to failures."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optmerge.bench.trials import trials
from optmerge.bench.trials.jobs import Job, failed
from optmerge.bench.trials.record_choice import SCALES
from optmerge.bench.trials.run import run
from optmerge.bench.trials.trials import Trial, read_all
from optmerge.bench.trials.workers import WorkerError
from optmerge.errors import InputError, MethodError
from worlds import records as synthetic

BEST = 0.7


class Pool:
    """Does jobs at once, with scores that depend on the scale; some fail."""

    def __init__(
        self,
        out: Any,
        fails: Any = lambda trial: False,
        dies: Any = lambda trial: False,
        stop_after: Any = 10**9,
        best: Any = BEST,
    ) -> None:
        self.waiting, self.done, self.out, self.best = deque(), [], out, best
        self.fails, self.dies, self.stop_after = fails, dies, stop_after

    @property
    def full(self) -> bool:
        return len(self.waiting) >= 2

    @property
    def busy(self) -> Any:
        return bool(self.waiting)

    def give(self, job: Any) -> None:
        assert not self.full
        self.waiting.append(job)

    def take(self) -> tuple[Any, ...]:
        job = self.waiting.pop()
        trial = job.trial
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt
        self.done.append(trial)
        if self.dies(trial):
            return job, WorkerError("killed")
        if self.fails(trial):
            result = failed(job, MethodError("broken", got="NaN"))
        else:
            level = 0.6 if trial.scale is None else 0.8 - abs(trial.scale - self.best)
            cost = {"answer_seconds": 1.0, "merge_seconds": 1.0}
            result = synthetic.made(trial, dict.fromkeys(trial.tasks, level), 1, cost)
        trials.write(result, self.out)
        return job, result


def jobs(methods: tuple[Any, ...] = ("ties", "tsv"), n: int = 40, sweep: bool = True) -> list[Job]:
    own = synthetic.weights("full", 0)
    base = Trial("full", "base", "base", None, "test", n, synthetic.TASKS, {"base": own["base"]})
    found = [Job(base, Path("base"), Path("base"))]
    for method in methods:
        test = replace(base, kind="merge", model=method, expert_set=0, weights=own, scale=0.3, default=True)
        job = Job(test, Path("base"), experts={"a": Path("a")})
        found.append(job)
        tasks = {task: synthetic.TASKS[task] for task in synthetic.TRAINED}
        for scale in SCALES if sweep else ():
            test = replace(test, scale=scale, default=scale == 0.3)
            tried = replace(test, split="validation", n=30, tasks=tasks)
            found.append(replace(job, trial=tried, test=test))
    return found


def names(found: Any) -> set[Any]:
    return {(trial.model, trial.scale, trial.split) for trial in found}


def test_everything_is_done_once_and_a_sweep_adds_the_test_of_its_best_scale(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "r")
    results = run(jobs(), pool, tmp_path / "r", tmp_path / "s")
    asked = names(job.trial for job in jobs())
    assert names(pool.done) == asked | {("ties", BEST, "test"), ("tsv", BEST, "test")}
    assert len(pool.done) == len(results) == len(asked) + 2
    (added,) = [
        trial for trial in pool.done if (trial.model, trial.scale, trial.split) == ("ties", BEST, "test")
    ]
    assert added.n == 40 and added.tasks == synthetic.TASKS and not added.default


def test_a_second_run_does_nothing_and_returns_the_same(tmp_path: Path) -> None:
    first = run(jobs(), Pool(tmp_path / "r"), tmp_path / "r", tmp_path / "s")
    before = (tmp_path / "r/full/trials.jsonl").read_bytes()
    pool = Pool(tmp_path / "r")
    second = run(jobs(), pool, tmp_path / "r", tmp_path / "s")
    assert pool.done == [] and (tmp_path / "r/full/trials.jsonl").read_bytes() == before
    assert {r.trial.identity() for r in first} == {r.trial.identity() for r in second}


@pytest.mark.parametrize("after", [0, 1, 5, 9, 16])
def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, after: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(jobs(), first := Pool(tmp_path / "r", stop_after=after), tmp_path / "r", tmp_path / "s")
    second = Pool(tmp_path / "r")
    run(jobs(), second, tmp_path / "r", tmp_path / "s")
    everything = [trial.identity() for trial in (*first.done, *second.done)]
    assert len(everything) == len(set(everything)) == 17


def test_a_best_scale_that_is_the_default_is_not_tested_again(tmp_path: Path) -> None:
    pool, seen = Pool(tmp_path / "r", best=0.3), []
    run(jobs(), pool, tmp_path / "r", tmp_path / "s", report=seen.append)
    assert len(pool.done) == 15 and (seen[-1].done, seen[-1].total) == (15, 15)


def test_what_is_recorded_elsewhere_is_not_done_again(tmp_path: Path) -> None:
    run(jobs(), Pool(tmp_path / "shipped"), tmp_path / "shipped", tmp_path / "s")
    pool = Pool(tmp_path / "r")
    results = run(jobs(), pool, tmp_path / "r", tmp_path / "s", known=read_all(tmp_path / "shipped"))
    assert pool.done == [] and len(results) == 17 and not (tmp_path / "r").exists()


def test_the_count_to_come_is_right_from_the_beginning(tmp_path: Path) -> None:
    seen = []
    run(jobs(), Pool(tmp_path / "r"), tmp_path / "r", tmp_path / "s", report=seen.append)
    assert [progress.done for progress in seen] == list(range(1, 18))
    assert {progress.total for progress in seen} == {17} and not any(progress.reused for progress in seen)
    run(jobs(), Pool(tmp_path / "r"), tmp_path / "r", tmp_path / "s", report=seen.append)
    assert all(progress.reused for progress in seen[17:])


def test_a_failure_is_recorded_the_run_goes_on_and_the_next_tries_again(tmp_path: Path) -> None:
    broken = Pool(tmp_path / "r", fails=lambda trial: trial.model == "ties" and trial.split == "test")
    results = run(jobs(), broken, tmp_path / "r", tmp_path / "s")
    assert len(broken.done) == 17
    failures = [r for r in read_all(tmp_path / "r") if r.error]
    assert len(failures) == len([r for r in results if r.error]) == 2 and "NaN" in failures[0].error
    mended = Pool(tmp_path / "r")
    run(jobs(), mended, tmp_path / "r", tmp_path / "s")
    assert names(mended.done) == {("ties", 0.3, "test"), ("ties", BEST, "test")}


def test_a_process_that_dies_is_a_failure_too(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "r", dies=lambda trial: trial.model == "base")
    run(jobs(methods=()), pool, tmp_path / "r", tmp_path / "s")
    (result,) = read_all(tmp_path / "r")
    assert "killed" in result.error


def test_a_sweep_goes_by_the_scales_that_did_not_fail(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "r", fails=lambda trial: trial.scale == BEST)
    run(jobs(methods=("ties",)), pool, tmp_path / "r", tmp_path / "s")
    assert ("ties", 0.5, "test") in names(pool.done) or ("ties", 1.0, "test") in names(pool.done)
    hopeless = Pool(tmp_path / "t", fails=lambda trial: trial.split == "validation")
    run(jobs(methods=("ties",)), hopeless, tmp_path / "t", tmp_path / "s")
    assert names(hopeless.done) == names(job.trial for job in jobs(methods=("ties",)))


def test_other_weights_are_other_trials(tmp_path: Path) -> None:
    run(jobs(sweep=False), Pool(tmp_path / "r"), tmp_path / "r", tmp_path / "s")
    others = [
        replace(job, trial=replace(job.trial, weights=job.trial.weights | {"base": "other"}))
        for job in jobs(sweep=False)
    ]
    pool = Pool(tmp_path / "r")
    run(others, pool, tmp_path / "r", tmp_path / "s")
    assert len(pool.done) == len(others)


@pytest.mark.parametrize("system", ["flock", "none"])
def test_two_runs_in_one_scratch_folder_are_refused(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if system == "none":
        monkeypatch.setattr(fcntl, "flock", refuse)

    class Nested(Pool):
        def take(self) -> Any:
            with pytest.raises(InputError, match="another run"):
                run(jobs(), Pool(tmp_path / "r2"), tmp_path / "r2", tmp_path / "s")
            return super().take()

    run(jobs(methods=()), Nested(tmp_path / "r"), tmp_path / "r", tmp_path / "s")
