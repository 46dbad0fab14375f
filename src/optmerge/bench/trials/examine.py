"""One job: merge the model or find it, ask it everything, write the record."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch

from optmerge.bench import records
from optmerge.bench.lines.tiny.checkpoint import load
from optmerge.bench.lines.tiny.family import Processor, write_json
from optmerge.bench.tasks._registry import Task, registered
from optmerge.bench.trials.answering import Album, Eyes, answer
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
        made = merge(job.recipe, errand.model)
        cost["merge_seconds"] = round(made.seconds, 4)
        if made.peak_bytes is not None:
            cost["merge_peak_bytes"] = made.peak_bytes
        merged = records.weights_hash(errand.model)
    model, processor = _load(errand)
    started = time.perf_counter()
    tasks = [task for name, task in registered().items() if name in job.cell.tasks]
    albums = [_eyes().album(model, processor, task, job.cell.split, job.cell.n) for task in tasks]
    replies = _answers(model, processor, albums)
    cost["answer_seconds"] = round(time.perf_counter() - started, 3)
    scores = {
        task.name: score(task, album.questions, said)
        for task, album, said in zip(tasks, albums, replies, strict=True)
    }
    if errand.keep:
        write_json(errand.answers, _told(tasks, albums, replies))
    return Result(job.cell, scores, cost, merged)


@cache
def _eyes() -> Eyes:
    """One for each process."""
    return Eyes()


def _load(errand: Errand) -> tuple[Any, Processor]:
    """The job's model; an adapter is added to the base's weights, as one would to use it."""
    folder = errand.job.model or errand.model
    if not (folder / "adapter_config.json").is_file():
        return load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by an older name
        model, processor = load(errand.job.base, adapter=folder)
    return model.merge_and_unload().eval(), processor


def _answers(model: Any, processor: Processor, albums: Sequence[Album]) -> list[list[str]]:
    """What is said to each album's questions; all are asked together, since more of them have one length."""
    texts = [question.text for album in albums for question in album.questions]
    said = iter(answer(model, processor, texts, torch.cat([album.features for album in albums])))
    return [[next(said) for _ in album.questions] for album in albums]


def score(task: Task, questions: Sequence[Question], replies: Sequence[str]) -> TaskScores:
    """Scores of what was said, by every metric and question type of the task."""
    pairs = list(zip(replies, questions, strict=True))
    scores = np.array([task.metric(said, question) for said, question in pairs])
    types: dict[str, list[float]] = defaultdict(list)
    for (_, question), value in zip(pairs, scores, strict=True):
        types[question.type].append(float(value))
    return TaskScores(
        scores=scores,
        types={name: (fmean(types[name]), len(types[name])) for name in task.types if name in types},
        metrics={
            name: fmean(metric(said, question) for said, question in pairs)
            for name, metric in task.metrics.items()
        },
    )


def _told(
    tasks: Sequence[Task], albums: Sequence[Album], replies: Sequence[Sequence[str]]
) -> dict[str, list[dict[str, Any]]]:
    """What was asked, said and right."""
    return {
        task.name: [
            {"question": question.text, "type": question.type, "said": said, "right": question.answers}
            for question, said in zip(album.questions, answers, strict=True)
        ]
        for task, album, answers in zip(tasks, albums, replies, strict=True)
    }
