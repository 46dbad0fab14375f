"""Scores for what models say: pure functions of text, as the real data sets' own evaluations count.

A score takes (prediction, accepted answers) and lies in [0, 1]; `metric` makes of it what a task registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optmerge.evaluate.questions import Metric, Question

Score = Callable[[str, Sequence[str]], float]
"""(what a model said, every accepted answer) → a score in [0, 1]."""


def metric(score: Score) -> Metric:
    """The metric that scores a prediction against its question's accepted answers."""

    def scored(prediction: str, question: Question) -> float:
        return score(prediction, question.answers)

    return scored
