"""One job: merges the model or finds it, asks it everything, writes the record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from optmerge.bench import lines
from optmerge.bench.lines import LineModel
from optmerge.bench.tasks import Task, registered
from optmerge.bench.trials.jobs import Answered, Job, recorded
from optmerge.bench.trials.merging import merge
from optmerge.bench.trials.trials import TaskScores, Trial, TrialResult
from optmerge.evaluate.questions import Question


def run(job: Job, out: Path, scratch: Path, keep: bool = False, device: str = "cpu") -> TrialResult:
    """Does a job and writes its record; whatever goes wrong goes into the record.

    Args:
        job: what to do.
        out: folder of the records.
        scratch: folder of merged models while they are asked.
        keep: leave the merged model there, and what was answered.
        device: of torch, where models are merged and answer.
    """

    def merged(job: Job, folder: Path) -> dict[str, float]:
        made = merge(job.recipe, folder, device=device)
        cost = {"merge_seconds": round(made.seconds, 4)}
        return cost if made.peak_bytes is None else cost | {"merge_peak_bytes": made.peak_bytes}

    def load(job: Job, folder: Path) -> LineModel:
        line = lines.get(job.trial.line)
        return line.load(folder, base=job.base, device=device, dtype=line.dtype)

    return recorded(job, merge=merged, load=load, answer=_answer, out=out, scratch=scratch, keep=keep)


def _answer(model: LineModel, trial: Trial) -> Answered:
    """Asks the model everything."""
    tasks = [task for name, task in registered().items() if name in trial.tasks]
    answered = model.answers(tasks, trial.split, trial.n)
    return {
        task.name: (score(task, each.questions, each.texts), _listed(each.questions, each.texts))
        for task, each in zip(tasks, answered, strict=True)
    }


def score(task: Task, questions: Sequence[Question], replies: Sequence[str]) -> TaskScores:
    """Scores of what was said, by every metric and question type of the task."""
    pairs = list(zip(replies, questions, strict=True))
    scores = np.array([task.metric(said, question) for said, question in pairs])
    types: dict[str, list[float]] = defaultdict(list)
    for (_, question), value in zip(pairs, scores, strict=True):
        types[question.type].append(float(value))
    return TaskScores(
        scores=scores,
        types={name: (fmean(types[name]), len(types[name])) for name in _in_order(task, types)},
        metrics={
            name: fmean(metric(said, question) for said, question in pairs)
            for name, metric in task.metrics.items()
        },
    )


def _in_order(task: Task, types: Iterable[str]) -> list[str]:
    """Question types in the order of the tables; those that the task doesn't name come last, by name."""
    there = set(types)
    return [name for name in task.types if name in there] + sorted(there - set(task.types))


def _listed(questions: Sequence[Question], replies: Sequence[str]) -> list[dict[str, Any]]:
    """What was asked, answered and right."""
    return [
        {"question": question.text, "type": question.type, "said": said, "right": question.answers}
        for question, said in zip(questions, replies, strict=True)
    ]
