"""One job: merge the model or find it, ask it everything, write the record."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from optmerge.bench import lines, records
from optmerge.bench.lines import Answers
from optmerge.bench.lines.tiny.family import write_json
from optmerge.bench.tasks import Task, registered
from optmerge.bench.trials.cells import Result, TaskScores
from optmerge.bench.trials.errands import Errand, recorded
from optmerge.bench.trials.merging import merge
from optmerge.evaluate.questions import Question


def run(errand: Errand) -> Result:
    """Does a job and writes its record; whatever goes wrong goes into the record."""
    return recorded(errand, _examine)


def _examine(errand: Errand) -> Result:
    job, cost, merged = errand.job, {}, None
    if job.experts:
        made = merge(job.recipe, errand.model, device=errand.device)
        cost["merge_seconds"] = round(made.seconds, 4)
        if made.peak_bytes is not None:
            cost["merge_peak_bytes"] = made.peak_bytes
        merged = records.weights_hash(errand.model)
    line = lines.get(job.cell.line)
    model = line.load(job.model or errand.model, base=job.base, device=errand.device, dtype=line.dtype)
    started = time.perf_counter()
    tasks = [task for name, task in registered().items() if name in job.cell.tasks]
    answered = model.answers(tasks, job.cell.split, job.cell.n)
    cost["answer_seconds"] = round(time.perf_counter() - started, 3)
    scores = {
        task.name: score(task, each.questions, each.texts) for task, each in zip(tasks, answered, strict=True)
    }
    if errand.keep:
        write_json(errand.answers, _told(tasks, answered))
    return Result(job.cell, scores, cost, merged)


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


def _told(tasks: Sequence[Task], answered: Sequence[Answers]) -> dict[str, list[dict[str, Any]]]:
    """What was asked, said and right."""
    return {
        task.name: [
            {"question": question.text, "type": question.type, "said": said, "right": question.answers}
            for question, said in zip(each.questions, each.texts, strict=True)
        ]
        for task, each in zip(tasks, answered, strict=True)
    }
