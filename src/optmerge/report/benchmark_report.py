"""The report of a benchmark from its records: scores, differences that are real, scores by scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from optmerge.bench.trials.line_scores import RULES, LineScores, Rule
from optmerge.bench.trials.output import read
from optmerge.bench.trials.pairs import ALPHA, Pair, pairs
from optmerge.bench.trials.record_choice import SCALES, average
from optmerge.bench.trials.rows import AVERAGE, ScoreRow, rows
from optmerge.report.blocks import Block, Cell, Items, Report, Section, Table, Text, words


@dataclass(frozen=True)
class BenchmarkRecord:
    """What the records of a benchmark say.

    Args:
        name: of the folder.
        lines: scores of each line of models.
    """

    name: str
    lines: tuple[LineScores, ...]

    @cached_property
    def pairs(self) -> dict[str, dict[Rule, list[Pair]]]:
        """Line → rule → every pair of methods, where there are two."""
        return {line.line: dict(_pairs(line)) for line in self.lines}

    def plain(self) -> dict[str, Any]:
        """JSON-ready data: the rows that `optmerge bench table --json` prints, and the pairs."""
        return {
            "kind": "benchmark",
            "name": self.name,
            "rows": [row.printed() for line in self.lines for row in rows(line)],
            "pairs": [
                pair.printed() for rules in self.pairs.values() for found in rules.values() for pair in found
            ],
        }


def read_benchmark(folder: Path) -> BenchmarkRecord:
    """The scores that a folder of records holds.

    Raises:
        InputError: no records, or some that can't be understood.
    """
    found = [line for line in read([folder]) if line.failure is None]
    return BenchmarkRecord(folder.resolve().name, tuple(found))


def benchmark_report(record: BenchmarkRecord) -> Report:
    """The report."""
    sections = []
    for line in record.lines:
        own = rows(line)
        sections += [
            Section(f"{line.line} line: scores", tuple(_scores(line, own))),
            Section(
                f"{line.line} line: differences that are real", tuple(_differences(record.pairs[line.line]))
            ),
            Section(f"{line.line} line: scores by scale", tuple(_sweeps(line))),
        ]
    names = ", ".join(f"{line.line} ({line.n} questions a capability)" for line in record.lines)
    return Report(f"Benchmark report: {record.name}", f"Lines of models: {names}.", tuple(sections))


def _pairs(line: LineScores) -> Iterable[tuple[Rule, list[Pair]]]:
    for rule in RULES:
        found = pairs(line, rule) if any(model.rule == rule for model in line.merges) else []
        if found:
            yield rule, found


def _scores(line: LineScores, own: Sequence[ScoreRow]) -> Iterable[Block]:
    """A row for each model, the best average first."""
    by_model: dict[tuple[str, Rule], dict[str, ScoreRow]] = defaultdict(dict)
    for row in own:
        by_model[row.label, row.scale_rule][row.capability] = row
    capabilities = list(dict.fromkeys(row.capability for row in own))
    ranked = sorted(by_model.items(), key=lambda item: -_or_nothing(item[1].get(AVERAGE)))
    spans = {name: _span(row for row in own if row.capability == name) for name in capabilities}
    table = tuple(
        (
            words(model),
            words(rule if any(row.kind == "merge" for row in found.values()) else "–"),
            *(_score(found.get(name), spans[name]) for name in capabilities),
            Cell(_ratio(found.get(AVERAGE))),
        )
        for (model, rule), found in ranked
    )
    yield Table(
        "Scores in %, ± half the 95 % interval, the best average first",
        ("model", "scale", *capabilities, "% of the experts"),
        table,
    )
    if line.notes:
        yield Items(tuple(line.notes))


def _or_nothing(row: ScoreRow | None) -> float:
    return -1.0 if row is None or row.score is None else row.score


def _span(some: Iterable[ScoreRow]) -> tuple[float, float]:
    known = [row.score for row in some if row.score is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _score(row: ScoreRow | None, span: tuple[float, float]) -> Cell:
    if row is None or row.score is None:
        return Cell("–")
    low, high = span
    heat = (row.score - low) / (high - low) if high > low else None
    half = "" if row.low is None or row.high is None else f" ± {50 * (row.high - row.low):.1f}"
    return Cell(f"{100 * row.score:.1f}{half}", heat)


def _ratio(row: ScoreRow | None) -> str:
    return "–" if row is None or row.normalised is None else f"{100 * row.normalised:.1f}"


def _differences(compared: Mapping[Rule, Sequence[Pair]]) -> Iterable[Block]:
    """Every pair of methods, the largest difference first."""
    if not compared:
        yield Text("There are no two merges to compare.")
    for rule, found in compared.items():
        real = [pair for pair in found if pair.p_holm < ALPHA]
        yield Text(
            f"At the {rule} scale {len(real)} of {len(found)} differences between methods are real "
            f"(p < {ALPHA:g} after Holm's correction)."
        )
        table = tuple(
            (
                words(f"{pair.first} − {pair.second}"),
                Cell(f"{100 * pair.difference:+.1f}"),
                Cell(f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}"),
                Cell(f"{pair.p_holm:.3f}"),
                words("real" if pair.p_holm < ALPHA else "–"),
            )
            for pair in sorted(found, key=lambda pair: -pair.difference)
        )
        columns = ("methods", "points of the average", "95 % interval", "p (Holm)", "")
        yield Table(f"Every pair at the {rule} scale", columns, table, folded=True)


def _sweeps(line: LineScores) -> Iterable[Block]:
    """Average on the validation split by method and scale."""
    curves: dict[str, list[list[float | None]]] = defaultdict(list)
    for (method, _), sweep in line.sweeps.items():
        results = [sweep.get(scale) for scale in SCALES]
        curves[method].append(
            [None if each is None or each.error is not None else average(each) for each in results]
        )
    if not curves:
        yield Text("No method was tried at several scales.")
        return
    means = {method: _mean(sets) for method, sets in sorted(curves.items())}
    known = [value for each in means.values() for value in each if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    table = tuple(
        (words(method), *(_swept(value, low, high) for value in each)) for method, each in means.items()
    )
    columns = ("method", *(f"× {scale:g}" for scale in SCALES))
    yield Table("Average on the validation split in %, mean over the expert sets", columns, table)


def _mean(sets: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over the expert sets at each scale, of those that have a score there."""
    places = [[value for value in each if value is not None] for each in zip(*sets, strict=True)]
    return [fmean(known) if known else None for known in places]


def _swept(value: float | None, low: float, high: float) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{100 * value:.1f}", (value - low) / (high - low) if high > low else None)
