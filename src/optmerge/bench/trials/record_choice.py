"""Choice of the records that count: the newest of each trial, with current weights, tasks and questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from optmerge.bench.tasks import registered
from optmerge.bench.trials.trials import PROTOCOL, TrialResult

SCALES = (0.1, 0.3, 0.5, 0.7, 1.0, 1.5)
"""Tried on the validation split."""
Key = tuple[str, int | None, float | Literal["auto"] | None]
"""(model, expert set, scale)"""
Sweeps = dict[tuple[str, int | None], dict[float, TrialResult]]
"""(method, expert set) → scale → result on the validation split."""


def current(
    results: Iterable[TrialResult], versions: Mapping[str, int] | None = None
) -> tuple[list[TrialResult], list[str]]:
    """The results of the tasks as they are and of the newest weights; and what was left out, in words.

    Results of other task versions are history rather than wrong: they stay in the folder.

    Args:
        results: oldest first.
        versions: task → version; of the registered tasks by default.
    """
    everything = list(results)
    versions = versions or {name: task.version for name, task in registered().items()}
    valid = [
        result
        for result in everything
        if result.trial.protocol == PROTOCOL
        and all(versions.get(task) == version for task, version in result.trial.tasks.items())
    ]
    newest = {
        _owner(result, role): digest for result in valid for role, digest in result.trial.weights.items()
    }
    alive = [
        result
        for result in valid
        if all(newest[_owner(result, role)] == digest for role, digest in result.trial.weights.items())
    ]
    notes = []
    if len(valid) < len(everything):
        notes.append(f"{len(everything) - len(valid)} records of other task versions are left out")
    if len(alive) < len(valid):
        notes.append(f"{len(valid) - len(alive)} records of earlier weights are left out")
    return alive, notes


def _owner(result: TrialResult, role: str) -> tuple[str, int | None, str]:
    """Owner of a role's weights: a line has one base, and every expert set has its own experts."""
    return result.trial.line, None if role == "base" else result.trial.expert_set, role


def tested(results: Sequence[TrialResult], n: int | None = None) -> tuple[dict[Key, TrialResult], list[str]]:
    """One line's results on the test split with `n` questions a task, by default the most; and a note.

    Args:
        results: of one line, oldest first; the newest of each trial counts.
        n: questions a task.
    """
    there = [result for result in results if result.trial.split == "test"]
    if n is None:
        n = max((result.trial.n for result in there), default=0)
    chosen = [result for result in there if result.trial.n == n]
    notes = [f"{len(there) - len(chosen)} records of other than {n} questions a task are left out"]
    return {key(result): result for result in chosen}, notes if len(chosen) < len(there) else []


def sweeps(results: Sequence[TrialResult]) -> Sweeps:
    """One line's complete sweeps: of each method and expert set the one with the most questions.

    Args:
        results: of one line, oldest first; the newest of each trial counts.
    """
    by_size: dict[int, Sweeps] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        scale = result.trial.scale
        if result.trial.split == "validation" and isinstance(scale, float) and scale in SCALES:
            model, expert_set, _ = key(result)
            by_size[result.trial.n][model, expert_set][scale] = result
    found: Sweeps = {}
    for n in sorted(by_size):
        found |= {who: sweep for who, sweep in by_size[n].items() if len(sweep) == len(SCALES)}
    return found


def key(result: TrialResult) -> Key:
    """Key of a result in a table."""
    return result.trial.model, result.trial.expert_set, result.trial.scale


def average(result: TrialResult) -> float:
    """Mean over the trained tasks of a finished result; over all where none is of the capabilities."""
    means = [result.tasks[name].scores.mean() for name in trained(result.tasks) or result.tasks]
    return float(sum(means) / len(means))


def best_scale(sweep: Mapping[float, TrialResult]) -> float | None:
    """The scale with the best average, the smallest of equals; None where every scale failed."""
    finished = {scale: average(result) for scale, result in sweep.items() if result.error is None}
    return min(finished, key=lambda scale: (-finished[scale], scale), default=None)


def trained(names: Iterable[str]) -> list[str]:
    """The trained ones among some tasks, which count in the average, in the order of the tables."""
    there = set(names)
    return [name for name, task in registered().items() if task.trained and name in there]
