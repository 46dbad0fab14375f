"""One job of a run: composes the model or finds it, asks it everything, writes the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from optmerge.bench.modalities import exam, models
from optmerge.bench.modalities.exam import ExamItem, SignalCache
from optmerge.bench.modalities.jobs import GivenTask
from optmerge.bench.modalities.training import START
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.jobs import Answered, Job, is_adapter, recorded
from optmerge.bench.trials.trials import TaskScores, Trial, TrialResult
from optmerge.omni.compose import compose


def run(job: Job, out: Path, scratch: Path, keep: bool = False) -> TrialResult:
    """Does a job and writes its record; whatever goes wrong goes into the record.

    Args:
        job: what to do.
        out: folder of the records.
        scratch: folder of composed models while they are asked.
        keep: leave the composed model there, and what was answered.
    """
    return recorded(job, merge=_compose, load=_load, answer=_answer, out=out, scratch=scratch, keep=keep)


def _compose(job: Job, folder: Path) -> dict[str, float]:
    """Composes the job's experts into a folder; returns what that cost."""
    started = time.perf_counter()
    compose(job.recipe, folder, towers={modality: modality for modality in MODALITIES})
    return {"merge_seconds": round(time.perf_counter() - started, 4)}


def _load(job: Job, folder: Path) -> tuple[Any, Any]:
    """The job's model; an adapter is added to the weights that it was trained on."""
    return models.load(job.base, folder) if is_adapter(folder) else models.load(folder)


def _answer(loaded: tuple[Any, Any], trial: Trial) -> Answered:
    """Asks the model everything; what is asked with the same inputs is asked together."""
    model, processor = loaded
    tasks = {name: GivenTask.named(name) for name in trial.tasks}
    items = {name: exam.items(trial.split, task.needs, trial.n) for name, task in tasks.items()}
    indexes = [item.index for each in items.values() for item in each]
    # Towers come with their expert, so its weights and those it started from say which tower it is.
    digest = trial.weights.get
    signals = {
        each: _cache().of(model, processor, each, trial.split, indexes, f"{digest(START)}{digest(each)}")
        for each in dict.fromkeys(each for task in tasks.values() for each in task.given)
    }
    model = exam.without_towers(model)
    found: dict[str, tuple[TaskScores, list[dict[str, Any]]]] = {}
    for given in dict.fromkeys(task.given for task in tasks.values()):
        names = [name for name, task in tasks.items() if task.given == given]
        prompts = [exam.prompt(trial.split, item, given) for name in names for item in items[name]]
        replies = iter(exam.answer(model, processor, prompts, {each: signals[each] for each in given}))
        for name in names:
            said = [next(replies) for _ in items[name]]
            found[name] = _scored(items[name], said), _listed(items[name], said)
    return {name: found[name] for name in trial.tasks}


@cache
def _cache() -> SignalCache:
    """One for each process."""
    return SignalCache()


def _scored(items: Sequence[ExamItem], replies: Sequence[str]) -> TaskScores:
    """Scores of the replies, in the order of the questions, and what guesses would get of them."""
    scores = np.array([exam.score(said, item.question) for item, said in zip(items, replies, strict=True)])
    families: dict[str, list[float]] = {}
    for item, value in zip(items, scores, strict=True):
        families.setdefault(item.question.family, []).append(float(value))
    return TaskScores(
        scores=scores,
        types={name: (fmean(values), len(values)) for name, values in families.items()},
        metrics={"accuracy": float(scores.mean()), "chance": fmean(item.question.chance for item in items)},
    )


def _listed(items: Sequence[ExamItem], replies: Sequence[str]) -> list[dict[str, Any]]:
    """What was asked, answered and right."""
    return [
        {
            "clip": item.index,
            "question": item.question.text,
            "family": item.question.family,
            "said": said,
            "right": item.question.answers,
        }
        for item, said in zip(items, replies, strict=True)
    ]
