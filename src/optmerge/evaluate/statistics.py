"""How sure a score is, and which differences are real: bootstrap intervals, paired tests, expert sets.

A group of scores, a capability say, is an array (expert set, question) of values in [0, 1]; every set answers
the same questions, and so do both sides of a comparison. Groups are resampled each on their own and averaged
with equal weight. Everything is seeded: equal input gives equal output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optmerge.errors import InputError

Scores = NDArray[np.float64]
"""Scores in [0, 1], (expert set, question)."""

RESAMPLES = 2000
FLIPS = 19_999
TAILS = (2.5, 97.5)
"""Percentiles between which the 95 % interval lies."""
_DECIMALS = 9
"""Differences that agree so far are equal: thirds, which averages over three sets are, have no exact form."""


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval.

    Args:
        score: mean over sets, groups and questions.
        low: lower end of the interval.
        high: upper end.
        n: questions.
        sets: expert sets.
        deviation: standard deviation of the sets' own scores; None for one set.
    """

    score: float
    low: float
    high: float
    n: int
    sets: int
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """One side's score minus another's on the same questions.

    Args:
        mean: over sets, groups and questions.
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided p-value of the sign-flip test: how often a difference this large comes about when it is
            chance which side gave which of two answers.
        sets: each set's own difference.
    """

    mean: float
    low: float
    high: float
    p: float
    sets: tuple[float, ...]


def estimate(groups: Sequence[Scores], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of the groups' means with its percentile bootstrap interval over questions.

    With several sets the interval allows for the choice of sets as well (`_interval`).
    """
    return _estimate(groups, lambda means: means, seed, resamples)


def normalised(
    groups: Sequence[Scores], references: Sequence[Scores], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """The mean over groups of score / reference's score, each set by its own reference.

    A resample draws questions, so score and reference meet the same ones. Resamples in which a reference
    answers nothing right have no ratio and are left out; None where a reference does so on all questions.

    Args:
        groups: scores.
        references: scores of, say, each capability's own expert; of the same shapes.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    _check_paired(groups, references)
    if any(not reference.mean(axis=1).all() for reference in references):
        return None

    def ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
        scores, experts = np.split(means, 2, axis=-1)
        return np.divide(scores, experts, out=np.full_like(scores, np.nan), where=experts > 0)

    stacked = [np.concatenate(pair) for pair in zip(groups, references, strict=True)]
    return _estimate(stacked, ratio, seed, resamples, most=np.inf)


def compare(
    first: Sequence[Scores], second: Sequence[Scores], *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """First minus second, question by question, on the expert sets at hand.

    The test is of these sets' models: it doesn't ask how other sets would differ. Of one group and one set it
    is McNemar's exact test but for the draws.
    """
    _check_paired(first, second)
    differences = [one - other for one, other in zip(first, second, strict=True)]
    rng = np.random.default_rng(seed)
    sets = np.mean([each.mean(axis=1) for each in differences], axis=0)
    pooled = [each.mean(axis=0) for each in differences]
    draws = np.mean([_resampled(each[:, None], resamples, rng)[:, 0] for each in pooled], axis=0)
    flipped = np.mean([_flipped(each, rng) / len(each) for each in pooled], axis=0)
    observed = float(sets.mean())
    extreme = int((np.abs(flipped) >= abs(observed) - 10.0**-_DECIMALS).sum())
    low, high = np.percentile(draws, TAILS)
    return Difference(observed, float(low), float(high), (1 + extreme) / (1 + FLIPS), tuple(map(float, sets)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): all below α are false with probability α at most."""
    order = sorted(range(len(p_values)), key=lambda row: p_values[row])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, row in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[row]))
        adjusted[row] = largest
    return adjusted


def _estimate(
    groups: Sequence[Scores],
    of_means: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    seed: int,
    resamples: int,
    most: float = 1.0,
) -> Estimate:
    """Estimate of a function (…, columns) → (…, sets) of each group's means."""
    rng = np.random.default_rng(seed)
    per_set = np.mean([of_means(group.mean(axis=1)) for group in groups], axis=0)
    draws = np.mean([of_means(_resampled(group.T, resamples, rng)) for group in groups], axis=0).mean(axis=1)
    low, high = _interval(draws[~np.isnan(draws)], per_set, rng)
    return Estimate(
        score=float(per_set.mean()),
        low=max(0.0, low),
        high=min(most, high),
        n=sum(group.shape[1] for group in groups),
        sets=len(per_set),
        deviation=float(per_set.std(ddof=1)) if len(per_set) > 1 else None,
    )


def _interval(
    draws: NDArray[np.float64], per_set: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """Percentiles of the bootstrap draws, widened by what the choice of sets adds.

    Which questions are asked and which sets are trained err independently, so the errors are added: a draw
    over questions, and a draw of the mean of k sets with deviation s, which is s/√k times Student's t of
    k − 1 degrees of freedom. Resampling two or three sets instead would understate it by half. The sets'
    deviation holds some of the questions' error too, so the interval is a little wide rather than narrow.
    """
    if len(per_set) > 1:
        spread = per_set.std(ddof=1) / np.sqrt(len(per_set))
        draws = draws + spread * rng.standard_t(len(per_set) - 1, size=len(draws))
    low, high = np.percentile(draws, TAILS)
    return float(low), float(high)


def _resampled(columns: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Column means of `resamples` bootstrap samples of the rows, (resample, column).

    How often each distinct row is drawn is multinomial, and scores have few distinct values: a thousand times
    less work than drawing rows.
    """
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    draws = rng.multinomial(len(columns), counts / len(columns), size=resamples)
    means: NDArray[np.float64] = draws @ rows / len(columns)
    return means


def _flipped(differences: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums of the differences, each with a sign at random; binomial for each distinct size."""
    sizes, counts = np.unique(np.abs(differences).round(_DECIMALS), return_counts=True)
    sums: NDArray[np.float64] = (2 * rng.binomial(counts, 0.5, size=(FLIPS, len(counts))) - counts) @ sizes
    return sums


def _check_paired(first: Sequence[Scores], second: Sequence[Scores]) -> None:
    shapes = [[group.shape for group in groups] for groups in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(
            "scores of different questions or expert sets can't be compared",
            got=f"{shapes[0]} and {shapes[1]} (sets, questions)",
            expected="the same questions and sets on both sides",
        )
