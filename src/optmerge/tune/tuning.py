"""Tuning a recipe: questions choose among candidates, others of the same file say how good the choice is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optmerge.errors import InputError
from optmerge.evaluate.evaluation import by_group, plain_estimate
from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.statistics import Difference, Estimate, compare, estimate
from optmerge.recipe import Recipe
from optmerge.tune.study import Examiner, Search, Tried, best_of, default_of, pareto, search

HELD_OUT = 1 / 3
"""Share of every group's questions that choose nothing and report on the choice."""
FEWEST = 4
"""Questions with answers of every group, so that both parts hold some."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Args:
        recipe: of the best candidate.
        best: on the questions that choose.
        tried: every candidate, in the order in which they were tried.
        front: those that no other candidate beats in every group.
        held_out: model (`base`, `default`, `best`) → score on the questions that chose nothing.
        groups: model → group → score on the same questions.
        gain: best less default on the same questions.
    """

    recipe: Recipe
    best: Tried
    tried: tuple[Tried, ...]
    front: tuple[Tried, ...]
    held_out: Mapping[str, Estimate]
    groups: Mapping[str, Mapping[str, Estimate]]
    gain: Difference

    def plain(self) -> dict[str, Any]:
        """The result as JSON-ready data; scores lie in [0, 1]."""
        return {
            "recipe": self.recipe.plain(),
            "chosen_on": sum(each.shape[1] for each in self.best.scores.values()),
            "chosen_score": self.best.score,
            "held_out": {
                name: {
                    **plain_estimate(score),
                    "groups": {group: plain_estimate(each) for group, each in self.groups[name].items()},
                }
                for name, score in self.held_out.items()
            },
            "gain": {"mean": self.gain.mean, "low": self.gain.low, "high": self.gain.high, "p": self.gain.p},
            "front": [each.number for each in self.front],
            "trials": [
                {
                    "number": each.number,
                    "method": each.candidate.method,
                    "strengths": dict(each.candidate.strengths),
                    "parameters": dict(each.candidate.parameters),
                    "weights": list(each.candidate.weights),
                    "score": each.score,
                    "groups": {group: float(scores.mean()) for group, scores in each.scores.items()},
                    "whole": each.whole,
                }
                for each in self.tried
            ],
        }


def divided(
    questions: Sequence[FileQuestion], seed: int
) -> tuple[tuple[FileQuestion, ...], tuple[FileQuestion, ...]]:
    """(questions that choose, questions held out): of every group the same shares, drawn with the seed.

    Raises:
        InputError: a group has too few questions with answers.
    """
    groups: dict[str, list[FileQuestion]] = {}
    for question in questions:
        if question.answers:
            groups.setdefault(question.group, []).append(question)
    if not groups:
        raise InputError("no question has an answer to choose by", hint="give each line its `answer`")
    chosen: list[FileQuestion] = []
    kept: list[FileQuestion] = []
    for name, group in groups.items():
        if len(group) < FEWEST:
            raise InputError(
                f"group {name!r} has too few questions" if name else "there are too few questions",
                got=f"{len(group)} with answers",
                expected=f"{FEWEST} or more, and for a sure choice hundreds",
            )
        drawn = random.Random(f"{seed}/{name}").sample(group, len(group))
        count = max(1, round(HELD_OUT * len(group)))
        kept += drawn[:count]
        chosen += drawn[count:]
    return tuple(chosen), tuple(kept)


def tune(
    asked: Search,
    held_out: Sequence[FileQuestion],
    trials: int,
    *,
    jobs: int = 1,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Tuned:
    """Searches, and asks base, default and best the questions that were held out.

    Args:
        asked: the search.
        held_out: questions that choose nothing.
        trials: candidates, those given up early included.
        jobs: processes.
        report: called after every candidate of this process.

    Raises:
        InputError: as `search`.
    """
    tried = search(asked, trials, jobs=jobs, report=report)
    best, default = best_of(tried, asked.space), default_of(tried, asked.space)
    examiner = Examiner(asked)
    asked_of = {"base": None, "default": default.candidate, "best": best.candidate}
    scores = {name: by_group(examiner.scores(each, held_out)) for name, each in asked_of.items()}
    return Tuned(
        recipe=best.candidate.recipe(asked.space.asked),
        best=best,
        tried=tuple(tried),
        front=tuple(pareto(tried)),
        held_out={name: estimate(list(each.values())) for name, each in scores.items()},
        groups={
            name: {group: estimate([own]) for group, own in each.items()} for name, each in scores.items()
        },
        gain=compare(list(scores["best"].values()), list(scores["default"].values())),
    )
