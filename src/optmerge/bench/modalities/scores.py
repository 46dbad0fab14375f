"""Accuracies by what questions need and what they ask for, with the totals that tables show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optmerge.bench.modalities.asking import Asked
from optmerge.bench.modalities.world import Modality

Cell = tuple[tuple[Modality, ...] | None, str | None]
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


def accuracies(scored: Iterable[tuple[Asked, float]]) -> Mapping[Cell, Accuracy]:
    """The accuracy of each cell that has questions; totals count each question once, as the data sets do."""
    rows: dict[Cell, list[tuple[float, float]]] = defaultdict(list)
    for question, score in scored:
        for needs in (question.needs, None):
            for family in (question.family, None):
                rows[needs, family].append((score, question.chance))
    return {
        cell: Accuracy(sum(score for score, _ in row), len(row), sum(chance for _, chance in row))
        for cell, row in rows.items()
    }
