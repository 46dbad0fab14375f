"""Accuracies by what questions need and what they ask for, with the totals that tables show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optmerge.bench.modalities.templates import ClipQuestion
from optmerge.bench.modalities.world import Modality

Group = tuple[tuple[Modality, ...] | None, str | None]
"""What is needed and the family; None for all of them together."""


@dataclass(frozen=True)
class Accuracy:
    """How much of what was asked is right.

    Args:
        right: sum of the scores.
        asked: number of questions.
        chance: what guesses would get of them, in all.
    """

    right: float
    asked: int
    chance: float

    @property
    def share(self) -> float:
        """Right answers per question."""
        return self.right / self.asked


def accuracies(scored: Iterable[tuple[ClipQuestion, float]]) -> Mapping[Group, Accuracy]:
    """The accuracy of each group that has questions; totals count each question once, as the data sets do."""
    rows: dict[Group, list[tuple[float, float]]] = defaultdict(list)
    for question, score in scored:
        for needs in (question.needs, None):
            for family in (question.family, None):
                rows[needs, family].append((score, question.chance))
    return {
        group: Accuracy(sum(score for score, _ in row), len(row), sum(chance for _, chance in row))
        for group, row in rows.items()
    }
