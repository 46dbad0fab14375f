"""The loop of a run, with made-up answers: what is done, what is left, what happens to failures."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from optmerge.bench.trials import cells, errands, orders
from optmerge.bench.trials.cells import Cell, read_all
from optmerge.bench.trials.orders import Job, Order
from optmerge.bench.trials.run import run
from optmerge.bench.trials.selection import SCALES
from optmerge.bench.trials.workers import WorkerError
from optmerge.errors import InputError, MethodError
from worlds import records as synthetic

BEST = 0.7


class Pool:
    """Does errands at once, with scores that depend on the scale; some fail."""

    def __init__(self, fails=lambda cell: False, dies=lambda cell: False, stop_after=10**9):
        self.waiting, self.done, self.fails, self.dies, self.stop_after = deque(), [], fails, dies, stop_after

    @property
    def full(self):
        return len(self.waiting) >= 2

    @property
    def busy(self):
        return bool(self.waiting)

    def give(self, errand):
        assert not self.full
        self.waiting.append(errand)

    def take(self):
        errand = self.waiting.pop()
        cell = errand.job.cell
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt
        self.done.append(cell)
        if self.dies(cell):
            return errand, WorkerError("killed")
        if self.fails(cell):
            result = errands.failed(errand.job, MethodError("broken", got="NaN"))
        else:
            level = 0.6 if cell.scale is None else 0.8 - abs(cell.scale - BEST)
            cost = {"answer_seconds": 1.0, "merge_seconds": 1.0}
            result = synthetic.made(cell, dict.fromkeys(cell.tasks, level), 1, cost)
        cells.write(result, errand.out)
        return errand, result


def order(methods=("ties", "tsv"), n=40, sweep=True) -> Order:
    own = synthetic.weights("full", 0)
    base = Cell("full", "base", None, "test", n, synthetic.TASKS, {"base": own["base"]})
    jobs = [Job(base, Path("base"), Path("base"))]
    for method in methods:
        cell = replace(base, model=method, expert_set=0, weights=own, scale=0.3, default=True)
        job = Job(cell, Path("base"), experts={"a": Path("a")})
        jobs.append(job)
        tasks = {task: synthetic.TASKS[task] for task in synthetic.TRAINED}
        tried = replace(cell, split="validation", n=30, tasks=tasks)
        jobs += [replace(job, cell=replace(tried, scale=s, default=s == 0.3)) for s in SCALES if sweep]
    return Order(tuple(jobs), ())


def names(found):
    return {(cell.model, cell.scale, cell.split) for cell in found}


def test_everything_is_done_once_and_a_sweep_adds_the_test_of_its_best_scale(tmp_path):
    pool = Pool()
    results = run(order(), pool, tmp_path / "r", tmp_path / "s", n=40)
    asked = names(job.cell for job in order().jobs)
    assert names(pool.done) == asked | {("ties", BEST, "test"), ("tsv", BEST, "test")}
    assert len(pool.done) == len(results) == len(asked) + 2
    (added,) = [cell for cell in pool.done if (cell.model, cell.scale, cell.split) == ("ties", BEST, "test")]
    assert added.n == 40 and added.tasks == synthetic.TASKS and not added.default


def test_a_second_run_does_nothing_and_returns_the_same(tmp_path):
    first = run(order(), Pool(), tmp_path / "r", tmp_path / "s", n=40)
    before = sorted((tmp_path / "r").rglob("*.json"))
    pool = Pool()
    second = run(order(), pool, tmp_path / "r", tmp_path / "s", n=40)
    assert pool.done == [] and sorted((tmp_path / "r").rglob("*.json")) == before
    assert {r.cell.identity() for r in first} == {r.cell.identity() for r in second}


@pytest.mark.parametrize("after", [0, 1, 5, 9, 16])
def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path, after):
    with pytest.raises(KeyboardInterrupt):
        run(order(), first := Pool(stop_after=after), tmp_path / "r", tmp_path / "s", n=40)
    second = Pool()
    run(order(), second, tmp_path / "r", tmp_path / "s", n=40)
    everything = [cell.identity() for cell in (*first.done, *second.done)]
    assert len(everything) == len(set(everything)) == 17


def test_a_best_scale_that_is_the_default_is_not_tested_again(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.suite.test_run.BEST", 0.3)
    pool, seen = Pool(), []
    run(order(), pool, tmp_path / "r", tmp_path / "s", n=40, report=seen.append)
    assert len(pool.done) == 15 and (seen[-1].done, seen[-1].total) == (15, 15)


def test_the_count_to_come_is_right_from_the_beginning(tmp_path):
    seen = []
    run(order(), Pool(), tmp_path / "r", tmp_path / "s", n=40, report=seen.append)
    assert [progress.done for progress in seen] == list(range(1, 18))
    assert {progress.total for progress in seen} == {17} and not any(progress.reused for progress in seen)
    run(order(), Pool(), tmp_path / "r", tmp_path / "s", n=40, report=seen.append)
    assert all(progress.reused for progress in seen[17:])


def test_a_failure_is_recorded_the_run_goes_on_and_the_next_tries_again(tmp_path):
    broken = Pool(fails=lambda cell: cell.model == "ties" and cell.split == "test")
    results = run(order(), broken, tmp_path / "r", tmp_path / "s", n=40)
    assert len(broken.done) == 17
    failures = [r for r in read_all(tmp_path / "r") if r.error]
    assert len(failures) == len([r for r in results if r.error]) == 2 and "NaN" in failures[0].error
    mended = Pool()
    run(order(), mended, tmp_path / "r", tmp_path / "s", n=40)
    assert names(mended.done) == {("ties", 0.3, "test"), ("ties", BEST, "test")}


def test_a_process_that_dies_is_a_failure_too(tmp_path):
    pool = Pool(dies=lambda cell: cell.model == "base")
    run(order(methods=()), pool, tmp_path / "r", tmp_path / "s", n=40)
    (result,) = read_all(tmp_path / "r")
    assert "killed" in result.error


def test_a_sweep_goes_by_the_scales_that_did_not_fail(tmp_path):
    pool = Pool(fails=lambda cell: cell.scale == BEST)
    run(order(methods=("ties",)), pool, tmp_path / "r", tmp_path / "s", n=40)
    assert ("ties", 0.5, "test") in names(pool.done) or ("ties", 1.0, "test") in names(pool.done)
    hopeless = Pool(fails=lambda cell: cell.split == "validation")
    run(order(methods=("ties",)), hopeless, tmp_path / "t", tmp_path / "s", n=40)
    assert names(hopeless.done) == names(job.cell for job in order(methods=("ties",)).jobs)


def test_other_weights_are_other_cells(tmp_path):
    run(order(sweep=False), Pool(), tmp_path / "r", tmp_path / "s", n=40)
    jobs = [
        replace(job, cell=replace(job.cell, weights=job.cell.weights | {"base": "other"}))
        for job in order(sweep=False).jobs
    ]
    pool = Pool()
    run(Order(tuple(jobs), ()), pool, tmp_path / "r", tmp_path / "s", n=40)
    assert len(pool.done) == len(jobs)


def test_two_runs_in_one_scratch_folder_are_refused(tmp_path):
    class Nested(Pool):
        def take(self):
            with pytest.raises(InputError, match="another run"):
                run(order(), Pool(), tmp_path / "r2", tmp_path / "s", n=40)
            return super().take()

    run(order(methods=()), Nested(), tmp_path / "r", tmp_path / "s", n=40)


def test_a_chosen_test_asks_what_every_test_asks():
    job = order(methods=("ties",)).jobs[-1]
    chosen = orders.test_of(job, 77).cell
    assert (chosen.split, chosen.n, chosen.tasks) == ("test", 77, synthetic.TASKS)
    assert (chosen.scale, chosen.model, chosen.weights) == (1.5, "ties", job.cell.weights)
