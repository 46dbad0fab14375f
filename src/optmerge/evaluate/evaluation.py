"""Models examined on questions of a file: their answers, scores with intervals, and paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optmerge.errors import InputError
from optmerge.evaluate.answering import BATCH, CHAT_TOKENS
from optmerge.evaluate.chat import Chat
from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.statistics import Difference, Estimate, Scores, compare, estimate

WINDOW = 512
"""Questions whose pictures are in memory at once."""

Show = Callable[[Chat, FileQuestion], Mapping[str, Any]]
"""(model, question) → what the model takes for it: tensors of one row."""


@dataclass(frozen=True)
class Reply:
    """What a model said to a question.

    Args:
        question: as it was asked.
        said: the answer.
        score: in [0, 1]; None where the question has no accepted answer.
        part: the expert whose part of a routed output answered, empty where the merge alone did; None for
            other models.
    """

    question: FileQuestion
    said: str
    score: float | None
    part: str | None = None

    def plain(self, model: str) -> dict[str, Any]:
        """The reply as a line of JSON.

        Args:
            model: name of the model.
        """
        asked = self.question
        routed = {} if self.part is None else {"part": self.part}
        return {
            "model": model,
            "id": asked.id,
            "group": asked.group,
            "question": asked.text,
            "said": self.said,
            "answers": list(asked.answers),
            "score": self.score,
            **routed,
        }


def replies(
    model: Chat,
    questions: Sequence[FileQuestion],
    show: Show,
    *,
    longest: int = CHAT_TOKENS,
    batch: int = BATCH,
) -> Iterator[list[Reply]]:
    """A model's replies, up to `WINDOW` questions at a time and in their order; answers are greedy.

    Args:
        model: that is asked.
        questions: of a file.
        show: makes a question the model's inputs.
        longest: tokens at which an answer is cut off.
        batch: questions answered together, at most.

    Raises:
        InputError: the model can't take what a question is about; with the question's file and line.
    """
    for start in range(0, len(questions), WINDOW):
        asked = questions[start : start + WINDOW]
        inputs = [_shown(model, each, show) for each in asked]
        chosen = model.choices(inputs, batch=batch)
        parts: Sequence[str | None] = [None] * len(asked) if chosen is None else chosen
        said = model.answers(inputs, longest=longest, batch=batch, choices=chosen)
        yield [
            Reply(question, text, question.score(text) if question.answers else None, part)
            for question, text, part in zip(asked, said, parts, strict=True)
        ]


def _shown(model: Chat, question: FileQuestion, show: Show) -> Mapping[str, Any]:
    try:
        return show(model, question)
    except InputError as problem:
        raise InputError(
            problem.what,
            where=question.where if problem.where is None else f"{question.where}: {problem.where}",
            got=problem.got,
            expected=problem.expected,
            hint=problem.hint,
        ) from problem


@dataclass(frozen=True)
class Evaluation:
    """A model's scores.

    Args:
        model: name of the model.
        score: mean over the groups, each of equal weight; None where no question has an answer.
        groups: group → its score, in the order of the file.
        differences: other model → this model's score less the other's, on the same questions.
        parts: of a routed output, group → expert → share of the group's questions that the expert's part
            answered; an empty name for the merge alone.
    """

    model: str
    score: Estimate | None
    groups: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The evaluation as JSON-ready data; scores lie in [0, 1]."""
        total = {"n": 0, "score": None, "low": None, "high": None}
        return {
            "model": self.model,
            **(total if self.score is None else plain_estimate(self.score)),
            "groups": {name: plain_estimate(each) for name, each in self.groups.items()},
            "differences": {
                other: {"mean": each.mean, "low": each.low, "high": each.high, "p": each.p}
                for other, each in self.differences.items()
            },
            **({"parts": {name: dict(own) for name, own in self.parts.items()}} if self.parts else {}),
        }


def plain_estimate(score: Estimate) -> dict[str, Any]:
    """A score with its interval as JSON-ready data, in [0, 1]."""
    return {"n": score.n, "score": score.score, "low": score.low, "high": score.high}


def evaluations(said: Mapping[str, Sequence[Reply]]) -> list[Evaluation]:
    """Scores of models that were asked the same questions.

    Intervals are percentiles of a bootstrap over questions, groups each on their own. The p-value of a
    difference is of a sign-flip test.

    Args:
        said: model → its replies, in the order of the file.
    """
    groups = {
        name: by_group((each.question.group, each.score) for each in replies if each.score is not None)
        for name, replies in said.items()
    }
    return [
        Evaluation(
            model=name,
            score=estimate(list(own.values())) if own else None,
            groups={group: estimate([scores]) for group, scores in own.items() if group or len(own) > 1},
            differences={
                other: compare(list(own.values()), list(theirs.values()))
                for other, theirs in groups.items()
                if other != name and own
            },
            parts=_parts(said[name]),
        )
        for name, own in groups.items()
    ]


def _parts(replies: Sequence[Reply]) -> dict[str, dict[str, float]]:
    """Group → part → share of the group's questions that it answered; nothing of a model without parts."""
    found: dict[str, Counter[str]] = {}
    for each in replies:
        if each.part is not None:
            found.setdefault(each.question.group, Counter())[each.part] += 1
    return {
        group: {part: count / counts.total() for part, count in counts.most_common()}
        for group, counts in found.items()
    }


def by_group(scored: Iterable[tuple[str, float]]) -> dict[str, Scores]:
    """Group → its scores, (1, question), of (group, score) pairs."""
    found: dict[str, list[float]] = {}
    for group, score in scored:
        found.setdefault(group, []).append(score)
    return {group: np.array([scores]) for group, scores in found.items()}
