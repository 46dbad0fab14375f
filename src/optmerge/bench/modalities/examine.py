"""One job of a run: compose the model or find it, ask it everything, write the record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from optmerge.bench import records
from optmerge.bench.lines.tiny.family import write_json
from optmerge.bench.modalities import exam, models
from optmerge.bench.modalities.exam import Item, Senses
from optmerge.bench.modalities.orders import KIND, parted
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.cells import Cell, Result, TaskScores
from optmerge.bench.trials.errands import Errand, recorded
from optmerge.omni.compose import compose


def run(errand: Errand) -> Result:
    """Does a job and writes its record; whatever goes wrong goes into the record."""
    return recorded(errand, _examine, KIND)


def _examine(errand: Errand) -> Result:
    job, cost, merged = errand.job, {}, None
    if job.experts:
        started = time.perf_counter()
        compose(job.recipe, errand.model, towers={modality: modality for modality in MODALITIES})
        cost["merge_seconds"] = round(time.perf_counter() - started, 4)
        merged = records.weights_hash(errand.model)
        model, processor = models.load(errand.model)
    elif job.model == job.base:
        model, processor = models.load(job.base)
    else:
        model, processor = models.load(job.base, job.model)
    started = time.perf_counter()
    said = _asked(model, processor, job.cell)
    cost["answer_seconds"] = round(time.perf_counter() - started, 3)
    if errand.keep:
        write_json(errand.answers, _told(said))
    return Result(job.cell, {name: _scored(pairs) for name, pairs in said.items()}, cost, merged)


@cache
def _senses() -> Senses:
    """One for each process."""
    return Senses()


def _asked(model: Any, processor: Any, cell: Cell) -> dict[str, list[tuple[Item, str]]]:
    """Task → its questions and what was said."""
    sheets = {name: exam.items(cell.split, parted(name)[0], cell.n) for name in cell.tasks}
    given = {name: parted(name)[1] for name in cell.tasks}
    indexes = [item.index for sheet in sheets.values() for item in sheet]
    # Towers come with their expert, so its weights and those it started from say which one it is.
    digest = cell.weights.get
    seen = {
        each: _senses().of(model, processor, each, cell.split, indexes, f"{digest('start')}{digest(each)}")
        for each in dict.fromkeys(each for inputs in given.values() for each in inputs)
    }
    model = exam.answering(model)
    found: dict[str, list[tuple[Item, str]]] = {}
    for inputs in dict.fromkeys(given.values()):
        names = [name for name in cell.tasks if given[name] == inputs]
        asked = [item for name in names for item in sheets[name]]
        prompts = [exam.prompt(cell.split, item, inputs) for item in asked]
        replies = iter(exam.answer(model, processor, prompts, {each: seen[each] for each in inputs}))
        found |= {name: [(item, next(replies)) for item in sheets[name]] for name in names}
    return {name: found[name] for name in cell.tasks}


def _scored(pairs: Sequence[tuple[Item, str]]) -> TaskScores:
    """Scores of what was said, in the order of the questions, and what guesses would get of them."""
    scores = np.array([exam.score(said, item.question) for item, said in pairs])
    families: dict[str, list[float]] = {}
    for (item, _), value in zip(pairs, scores, strict=True):
        families.setdefault(item.question.family, []).append(float(value))
    return TaskScores(
        scores=scores,
        types={name: (fmean(values), len(values)) for name, values in families.items()},
        metrics={
            "accuracy": float(scores.mean()),
            "chance": fmean(item.question.chance for item, _ in pairs),
        },
    )


def _told(said: Mapping[str, Sequence[tuple[Item, str]]]) -> dict[str, list[dict[str, Any]]]:
    """What was asked, said and right."""
    return {
        name: [
            {
                "clip": item.index,
                "question": item.question.text,
                "family": item.question.family,
                "said": words,
                "right": item.question.answers,
            }
            for item, words in pairs
        ]
        for name, pairs in said.items()
    }
