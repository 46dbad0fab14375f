"""A search with Optuna: candidates are asked questions block by block, and poor ones are given up early."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optmerge.checkpoints.locks import lock_alone
from optmerge.errors import InputError, OutputError
from optmerge.evaluate.answering import BATCH
from optmerge.evaluate.evaluation import Show, by_group
from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.statistics import Scores
from optmerge.tune.candidates import Candidate, Space
from optmerge.tune.subject import Subject

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

BLOCKS = 4
"""Parts of the questions after each of which a candidate may be given up."""
PATIENCE = 8
"""Trials that are asked everything before any is given up."""
FILE = "study.jsonl"
"""Journal of the trials in the output folder."""


@dataclass(frozen=True)
class Search:
    """A search, as every process of it is told.

    Args:
        space: what may be chosen.
        questions: those that choose; every one has an answer.
        out: folder of the journal.
        longest: tokens at which an answer is cut off.
        seed: of the sampler.
        device: of torch.
        show: makes a question a model's inputs.
    """

    space: Space
    questions: tuple[FileQuestion, ...]
    out: Path
    longest: int
    seed: int
    device: str
    show: Show

    @property
    def name(self) -> str:
        """Digest of what decides the scores; a journal of another search isn't continued."""
        asked = [[each.id, each.text, each.answers, each.metric] for each in self.questions]
        told = [self.space.asked.plain(), self.space.methods, sorted(self.space.parts), asked, self.longest]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Tried:
    """A candidate and its scores.

    Args:
        number: of the trial.
        candidate: what was tried.
        scores: group → scores in [0, 1], (1, question); of the questions that it was asked.
        whole: whether it was asked every question, rather than given up.
    """

    number: int
    candidate: Candidate
    scores: Mapping[str, Scores]
    whole: bool

    @property
    def score(self) -> float:
        """Mean over groups."""
        return mean_over_groups(self.scores)


def mean_over_groups(scores: Mapping[str, Scores]) -> float:
    """The mean of the groups' means."""
    return float(np.mean([each.mean() for each in scores.values()]))


def search(
    asked: Search, trials: int, *, jobs: int = 1, report: Callable[[Tried], None] = lambda tried: None
) -> list[Tried]:
    """Tries candidates until there are so many; those in the folder's journal count.

    Args:
        asked: what is searched.
        trials: in all, those given up included.
        jobs: processes, each with models of its own.
        report: called after every trial of this process.

    Returns:
        Every trial, in the order in which they were begun.

    Raises:
        OutputError: the folder holds another search.
        InputError: a candidate can't be merged.
    """
    study = _study(asked)
    there = [
        each.system_attrs.get("fixed_params") if each.state is each.state.WAITING else each.params
        for each in study.trials
        if each.state is each.state.WAITING or "scores" in each.user_attrs
    ]
    for values in asked.space.first():
        if values not in there:  # a killed search may have begun one and not ended it
            study.enqueue_trial(values)
    left = trials - sum(each.state.is_finished() for each in study.trials)
    if left > 0 and jobs == 1:
        _work(asked, left, report)
    elif left > 0:
        shares = [left // jobs + (row < left % jobs) for row in range(jobs)]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for done in [pool.submit(_work, asked, share) for share in shares if share]:
                done.result()
    return [_tried(asked, each) for each in _study(asked).trials if "scores" in each.user_attrs]


def _study(asked: Search) -> Study:
    """The study in the folder's journal, made where there is none."""
    optuna = _optuna()
    asked.out.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(asked.out / FILE))
    storage = optuna.storages.JournalStorage(backend)
    others = [each.study_name for each in storage.get_all_studies() if each.study_name != asked.name]
    if others:
        raise OutputError(
            "the folder holds the search of another recipe, other questions or another space",
            where=asked.out,
            hint="choose another --out, or repeat the command that began it",
        )
    study: Study = optuna.create_study(
        storage=storage,
        study_name=asked.name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=asked.seed, n_startup_trials=len(asked.space.methods) + 4),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=PATIENCE, n_warmup_steps=1),
    )
    return study


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("Optuna isn't installed", hint="pip install 'optmerge[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _work(asked: Search, trials: int, report: Callable[[Tried], None] = lambda tried: None) -> None:
    """Tries candidates in this process."""
    optuna = _optuna()
    examiner = Examiner(asked)

    def objective(trial: Trial) -> float:
        candidate = asked.space.draw(trial)
        found: list[tuple[str, float]] = []
        value = 0.0
        for step, block in enumerate(examiner.blocks):
            found += examiner.scores(candidate, block)
            scores = by_group(found)
            value = mean_over_groups(scores)
            trial.report(value, step)
            last = step == len(examiner.blocks) - 1
            if last or trial.should_prune():
                trial.set_user_attr("scores", {group: each[0].tolist() for group, each in scores.items()})
                trial.set_user_attr("whole", last)
                report(Tried(trial.number, candidate, scores, last))
                if not last:
                    raise optuna.TrialPruned
        return value

    _study(asked).optimize(objective, n_trials=trials)


class Examiner:
    """Asks candidates the questions of a search, in blocks that each hold a part of every group.

    Args:
        asked: the search.
    """

    def __init__(self, asked: Search) -> None:
        self._asked = asked
        self._subject = Subject(asked.space.asked, asked.out, asked.device)
        self._inputs: dict[str, Mapping[str, Any]] = {}
        self.blocks = list(_blocks(asked.questions))

    def scores(
        self, candidate: Candidate | None, questions: Sequence[FileQuestion]
    ) -> Iterator[tuple[str, float]]:
        """(group, score) of each question, by a candidate or the base."""
        for question, said in zip(questions, self.said(candidate, questions), strict=True):
            yield question.group, question.score(said)

    def said(self, candidate: Candidate | None, questions: Sequence[FileQuestion]) -> list[str]:
        """Answers of a candidate or the base."""
        model = self._subject.become(candidate)
        for question in questions:
            if question.id not in self._inputs:
                self._inputs[question.id] = self._asked.show(model, question)
        inputs = [self._inputs[question.id] for question in questions]
        return model.answers(inputs, longest=self._asked.longest, batch=BATCH)


def _blocks(questions: Sequence[FileQuestion]) -> Iterator[list[FileQuestion]]:
    """The questions in `BLOCKS` parts, every group dealt out over them."""
    groups: dict[str, list[FileQuestion]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    for part in range(BLOCKS):
        block = [each for group in groups.values() for each in group[part::BLOCKS]]
        if block:
            yield block


def _tried(asked: Search, trial: FrozenTrial) -> Tried:
    import optuna

    candidate = asked.space.draw(optuna.trial.FixedTrial(trial.params))
    scores = {group: np.array([each]) for group, each in trial.user_attrs["scores"].items()}
    return Tried(trial.number, candidate, scores, trial.user_attrs["whole"])


def pareto(tried: Sequence[Tried]) -> list[Tried]:
    """The candidates asked everything that no other one beats in a group without losing in another."""
    whole = [each for each in tried if each.whole]
    means = [np.array([scores.mean() for scores in each.scores.values()]) for each in whole]

    def beaten(own: Any) -> bool:
        return any((other >= own).all() and (other > own).any() for other in means)

    return [each for each, own in zip(whole, means, strict=True) if not beaten(own)]


def default_of(tried: Sequence[Tried], space: Space) -> Tried:
    """The recipe's own method as it is without a search."""
    plain = space.default()
    return next(each for each in tried if each.candidate == plain)


def best_of(tried: Sequence[Tried], space: Space) -> Tried:
    """The candidate to take: the highest score, if it is higher than the default's by more than chance.

    The best of many noisy scores is too high. So the default stays unless a candidate gains more than one
    standard error of the difference on the same questions (the one-standard-error rule of Breiman et al.
    1984, with the default as the simplest model).

    Args:
        tried: candidates; those given up early are left out.
        space: knows the default.
    """
    default = default_of(tried, space)
    whole = [each for each in tried if each.whole]
    best = max(whole, key=lambda each: (round(each.score, 9), -each.number))
    gaps = [scores[0] - default.scores[group][0] for group, scores in best.scores.items()]
    error = math.sqrt(sum(float(gap.var(ddof=1)) / len(gap) for gap in gaps if len(gap) > 1)) / len(gaps)
    return best if best.score - default.score > error else default


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps a second search out of the folder while this one runs.

    Raises:
        OutputError: another search is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    what = "another search is at work in this folder"
    held = lock_alone(out / "lock", what, where=out, option="--out")
    try:
        yield
    finally:
        held.close()
