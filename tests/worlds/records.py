"""Records as a run would write them, of models that were never trained: skills are made up, answers drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from optmerge.bench.tasks import drawn
from optmerge.bench.trials.record_choice import SCALES
from optmerge.bench.trials.trials import TaskScores, Trial, TrialResult

TASKS = {name: task.version for name, task in drawn().items()}
TRAINED = [name for name, task in drawn().items() if task.trained]
CREATED = "2026-01-01T00:00:00.{:06d}+00:00"

METHODS = {
    "average": (0.62, None, 0.02),
    "task_arithmetic": (0.60, 0.7, 0.03),
    "ties": (0.63, 1.0, 0.06),
    "tsv": (0.68, 1.0, 0.4),
    "optmerge": (0.72, 0.7, 2.5),
}
"""Method → skill at its best scale, that scale (None: fixed), seconds of a merge."""
DEFAULT = 0.3


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def made(
    trial: Trial, skill: dict[str, float], order: int, cost: dict[str, float] | None = None
) -> TrialResult:
    """A result with scores drawn at a skill; every model finds the same questions easy."""
    rng = np.random.default_rng([order, trial.n])
    tasks = {}
    for task in trial.tasks:
        hardness = np.random.default_rng([len(task), trial.n]).random(trial.n)
        noise = rng.random(trial.n)
        scores = (0.6 * hardness + 0.4 * noise < skill[task]).astype(float)
        half = trial.n // 2
        types = {"easy": (scores[:half].mean(), half), "hard": (scores[half:].mean(), trial.n - half)}
        tasks[task] = TaskScores(scores, types, {"exact_match": float(scores.mean())})
    return TrialResult(trial, tasks, cost or {"answer_seconds": 20.0}, created=CREATED.format(order))


def weights(line: str, number: int | None = None) -> dict[str, str]:
    """Base, and the experts of a set."""
    found = {"base": digest(line)}
    return found | ({task: digest(f"{line}{number}{task}") for task in TRAINED} if number is not None else {})


def line(name: str = "full", sets: int = 1, n: int = 200, swept: bool = True) -> list[TrialResult]:
    """A whole run of one line, in order."""
    return [
        replace(result, created=CREATED.format(at)) for at, result in enumerate(_line(name, sets, n, swept))
    ]


def _line(name: str, sets: int, n: int, swept: bool) -> Iterator[TrialResult]:
    low = dict.fromkeys(TASKS, 0.4) | {"composition": 0.1}
    common = Trial(name, "base", "base", None, "test", n, TASKS, weights(name))
    yield made(common, low, 0)
    for number in range(sets):
        own = weights(name, number)
        for rank, task in enumerate(TRAINED):
            trial = replace(
                common,
                kind="expert",
                model=task,
                expert_set=number,
                weights={"base": own["base"], task: own[task]},
            )
            yield made(trial, low | {task: 0.8 + 0.02 * number}, 100 * number + rank + 1)
        trial = replace(
            common,
            kind="mixture",
            model="mixture",
            expert_set=number,
            weights={"base": own["base"], "mixture": "m"},
        )
        yield made(trial, dict.fromkeys(TASKS, 0.76) | {"composition": 0.2}, 100 * number + 20)
        for rank, method in enumerate(METHODS):
            yield from _method(
                replace(common, expert_set=number, weights=own), method, 100 * number + 30 + rank, swept
            )


def _method(trial: Trial, method: str, order: int, swept: bool) -> Iterator[TrialResult]:
    top, best, seconds = METHODS[method]
    default = 1.0 if best is None else DEFAULT
    cost = {"answer_seconds": 20.0, "merge_seconds": seconds, "merge_peak_bytes": 3e7 * (1 + seconds)}
    scales = {default, best or 1.0} if swept else {default}
    trials = [("test", scale, trial.n) for scale in sorted(scales)]
    trials += [("validation", scale, max(2, trial.n // 3)) for scale in SCALES if swept and best is not None]
    for split, scale, n in trials:
        skill = {
            task: top - 0.2 * abs(scale - (best or scale)) + 0.01 * rank for rank, task in enumerate(TRAINED)
        }
        tasks = TASKS if split == "test" else {task: TASKS[task] for task in TRAINED}
        asked = replace(
            trial,
            kind="merge",
            model=method,
            scale=scale,
            default=scale == default,
            split=split,
            n=n,
            tasks=tasks,
        )
        yield made(asked, skill | {"composition": 0.15}, order, cost)
