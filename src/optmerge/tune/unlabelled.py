"""A strength chosen by questions without answers: by what the merges say at several strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.scoring.vqa import normalise
from optmerge.tune.candidates import Candidate
from optmerge.tune.study import Examiner

Criterion = Literal["stability", "agreement"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
GRID = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.45, 1.75)
"""Strengths that are tried."""


@dataclass(frozen=True)
class Strengths:
    """What the merges at several strengths say.

    Args:
        strengths: in rising order.
        stability: share of questions to which the merge says the same as its two neighbours, on average.
        agreement: share of the experts that say what the merge says, averaged over questions.
    """

    strengths: tuple[float, ...]
    stability: tuple[float, ...]
    agreement: tuple[float, ...]

    def chosen(self, criterion: Criterion) -> float:
        """The strength with the highest value, the one nearest 1 of equals."""
        values = np.round(getattr(self, criterion), 9)
        best = np.flatnonzero(values == values.max())
        return min(
            (self.strengths[row] for row in best), key=lambda strength: (abs(np.log(strength)), strength)
        )


def compare_strengths(
    examiner: Examiner,
    candidate: Candidate,
    experts: Sequence[Sequence[str]],
    questions: Sequence[FileQuestion],
    grid: Sequence[float] = GRID,
) -> Strengths:
    """Asks the merge at every strength of a grid.

    Stability is the criterion of AdaMMS (Du et al. 2025, arXiv:2503.23733): answers change least between
    neighbouring coefficients where the merge is good.

    Args:
        examiner: asks.
        candidate: the merge; its strengths are replaced.
        experts: of each expert what it says to the questions.
        questions: answers aren't looked at.
        grid: strengths in rising order.
    """
    said = []
    for strength in grid:
        there = Candidate(
            candidate.method,
            dict.fromkeys(candidate.strengths, strength),
            candidate.parameters,
            candidate.weights,
        )
        said.append([normalise(each) for each in examiner.said(there, questions)])
    words: NDArray[np.str_] = np.array(said)
    same = (words[1:] == words[:-1]).mean(axis=1)
    neighbours = [same[max(0, row - 1) : row + 1].mean() for row in range(len(grid))]
    known = np.array([[normalise(each) for each in one] for one in experts])
    agreed = [(known == row).mean() for row in words] if len(known) else [0.0] * len(grid)
    return Strengths(tuple(grid), tuple(map(float, neighbours)), tuple(map(float, agreed)))
