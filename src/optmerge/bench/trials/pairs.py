"""Which differences between methods are real: every pair on the same questions, allowing for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from optmerge.bench.trials.grid import Entry, Grid
from optmerge.bench.trials.line_scores import LineScores, ModelScores, Rule
from optmerge.bench.trials.record_choice import trained
from optmerge.evaluate import statistics
from optmerge.evaluate.statistics import Difference, Scores
from optmerge.methods import registered

ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """The average of one method less another's.

    Args:
        line: of models.
        scale_rule: of both scales.
        first: the method with the higher average.
        second: the other.
        difference: of the averages over the capabilities, in [0, 1].
        low: lower end of the 95 % interval.
        high: upper end.
        p: of the sign-flip test.
        p_holm: the same, adjusted for the number of pairs.
        by_set: each expert set's own difference.
    """

    line: str
    scale_rule: Rule
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    by_set: tuple[float, ...]

    def printed(self) -> dict[str, Any]:
        """Columns of CSV and keys of JSON."""
        return asdict(self)


def pairs(line: LineScores, rule: Rule) -> list[Pair]:
    """Every two methods, best first; the one whose scale is fixed anyway stands in both rules."""
    methods = _methods(line, rule)
    found = []
    for first, second in combinations(methods, 2):
        sets = [number for number in first.sets if number in second.sets]
        if sets:
            sides = [_scores(line, each, sets) for each in (first, second)]
            found.append(_pair(line.line, rule, first.model, second.model, statistics.compare(*sides)))
    adjusted = statistics.holm([pair.p for pair in found])
    return [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def _pair(line: str, rule: Rule, first: str, second: str, found: Difference) -> Pair:
    return Pair(
        line=line,
        scale_rule=rule,
        first=first,
        second=second,
        difference=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
        p_holm=found.p,
        by_set=found.sets,
    )


def matrix(compared: Sequence[Pair]) -> Grid:
    """One line's pairs at one rule: row less column in points of the average, marked where it is real."""
    found = {(pair.first, pair.second): pair for pair in compared}
    names = list(dict.fromkeys([*(pair.first for pair in compared), *(pair.second for pair in compared)]))
    lines = []
    for row in names:
        line = [Entry(row)]
        for column in names[1:]:
            pair = found.get((row, column))
            real = pair is not None and pair.p_holm < ALPHA
            text = "" if pair is None else f"{100 * pair.difference:+.1f}{'*' * real}"
            line.append(Entry(text, best=real))
        lines.append(tuple(line))
    return Grid(
        f"{compared[0].line}: differences of the average at the {compared[0].scale_rule} scale, in points",
        ("method", *names[1:]),
        1,
        (tuple(lines[:-1]),),
        (
            f"row less column on the same questions; *: real at {ALPHA:.0%} after Holm's correction for "
            f"{len(found)} pairs",
        ),
    )


def _methods(line: LineScores, rule: Rule) -> list[ModelScores]:
    """One merge per method, best average first."""
    known = registered()
    kept = [
        each
        for each in line.merges
        if each.scores and (each.rule == rule or (each.model in known and known[each.model].fixed_scale))
    ]
    return sorted(kept, key=lambda each: -_average(line, each))


def _average(line: LineScores, merge: ModelScores) -> float:
    return statistics.estimate(_scores(line, merge, merge.sets)).score


def _scores(line: LineScores, merge: ModelScores, sets: Sequence[int]) -> list[Scores]:
    rows = [merge.sets.index(number) for number in sets]
    return [merge.scores[task][rows] for task in trained(line.tasks)]
