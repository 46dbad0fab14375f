"""The table of a line: every model's score on every capability, made of rows and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from optmerge.bench.tasks import registered
from optmerge.bench.trials.grid import Entry, Grid
from optmerge.bench.trials.line_scores import Rule
from optmerge.bench.trials.rows import AVERAGE, ScoreRow
from optmerge.bench.trials.trials import Kind

EMPTY = Entry("–")
_REFERENCES: tuple[Kind, ...] = ("base", "routing", "mixture")
"""What the best merge is compared with."""


def table(title: str, rows: Sequence[ScoreRow], notes: Iterable[str] = ()) -> Grid:
    """One line's rows, a model and rule to a line; the best merge of each column is bold.

    Args:
        title: of the table.
        rows: of one line of models, in order.
        notes: below the table.
    """
    capabilities = list(dict.fromkeys(row.capability for row in rows))
    models = [{row.capability: row for row in group} for _, group in groupby(rows, _who)]
    sets = any(row.deviation is not None for row in rows)
    cost = any(row.merge_seconds is not None for row in rows)
    best = {name: _best(rows, name) for name in capabilities}
    shares = [row.normalised for row in rows if row.capability == AVERAGE and row.kind == "merge"]
    top = max((share for share in shares if share is not None), default=None)
    columns = ["model", "rule", "scale"]
    for name in capabilities:
        columns.append(_title(name))
        if name == AVERAGE:
            columns += ["σ sets"] * sets + ["% of experts"]
    columns += ["merge s", "peak MB"] * cost
    sections: dict[tuple[int, str], list[tuple[Entry, ...]]] = {}
    for model in models:
        first = next(iter(model.values()))
        merge = first.kind == "merge"
        line = [Entry(_name(first)), Entry(first.scale_rule if merge else ""), Entry(_scales(first))]
        for name in capabilities:
            line.append(_score(model.get(name), best[name]))
            if name == AVERAGE:
                line += [_deviation(model.get(name))] * sets + [_share(model.get(name), top)]
        if cost:
            line += [_number(first.merge_seconds, 1, 2), _number(first.merge_peak_bytes, 1e6, 0)]
        sections.setdefault((_section(first.kind), first.scale_rule), []).append(tuple(line))
    return Grid(
        title, tuple(columns), 2, tuple(map(tuple, sections.values())), (*_legend(rows, cost), *notes)
    )


def headline(rows: Sequence[ScoreRow]) -> str:
    """One sentence on a line: its best merge beside base, experts and mixture."""
    averages = {_who(row): row for row in rows if row.capability == AVERAGE and row.score is not None}
    merges = [row for row in averages.values() if row.kind == "merge"]
    if not merges:
        return ""
    best = max(merges, key=lambda row: row.score or 0.0)
    words = f"{best.line}: {best.model} ({best.scale_rule} scale) averages {_percent(best)}"
    if best.normalised is not None:
        words += f", {100 * best.normalised:.1f} % of what the experts score on their own capabilities"
    others = [row for kind in _REFERENCES for row in averages.values() if row.kind == kind]
    return "; ".join([words, *(f"{row.label} {_percent(row)}" for row in others)]) + "."


def _who(row: ScoreRow) -> tuple[Kind, str, Rule]:
    return row.kind, row.model, row.scale_rule


def _best(rows: Sequence[ScoreRow], capability: str) -> float | None:
    scores = [row.score for row in rows if row.capability == capability and row.kind == "merge"]
    return max((score for score in scores if score is not None), default=None)


def _title(capability: str) -> str:
    tasks = registered()
    return tasks[capability].title if capability in tasks else capability


def _name(row: ScoreRow) -> str:
    return f"{row.model} expert" if row.kind == "expert" else row.model


def _section(kind: Kind) -> int:
    """Trained models, then merges, then what merging is measured by."""
    return 1 if kind == "merge" else 2 if kind in ("mixture", "routing") else 0


def _scales(row: ScoreRow) -> str:
    """One scale, or the range over the sets."""
    if not row.scales:
        return ""
    low, high = min(row.scales), max(row.scales)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _score(row: ScoreRow | None, best: float | None) -> Entry:
    if row is None:
        return EMPTY
    if row.score is None:
        return Entry("failed" if row.failed else "–")
    doubt = f"{50 * (row.high - row.low):.1f}" if row.low is not None and row.high is not None else ""
    text = f"{100 * row.score:.1f}" + "†" * bool(row.failed)
    return Entry(text, doubt, row.kind == "merge" and row.score == best)


def _share(row: ScoreRow | None, top: float | None) -> Entry:
    if row is None or row.normalised is None:
        return EMPTY
    return Entry(f"{100 * row.normalised:.1f}", best=row.kind == "merge" and row.normalised == top)


def _deviation(row: ScoreRow | None) -> Entry:
    return Entry("" if row is None or row.deviation is None else f"{100 * row.deviation:.1f}")


def _number(value: float | None, unit: float, digits: int) -> Entry:
    return Entry("" if value is None else f"{value / unit:.{digits}f}")


def _percent(row: ScoreRow) -> str:
    deviation = "" if row.deviation is None else f" (±{100 * row.deviation:.1f} over {row.seeds} expert sets)"
    return f"{100 * (row.score or 0.0):.1f} %{deviation}"


def _legend(rows: Sequence[ScoreRow], cost: bool) -> list[str]:
    """Explanations of the numbers, as far as the table has them."""
    found = ["scores in %; bold: the best merge of each column"]
    if any(row.low is not None for row in rows):
        found[0] = found[0].replace("%;", "%, ± half the 95 % interval;")
    found.append("% of experts: mean over the capabilities of score / own expert's score")
    if any(row.deviation is not None for row in rows):
        found.append("σ sets: standard deviation of the average over the expert sets; intervals allow for it")
    if any(row.failed for row in rows):
        found.append("† without the expert sets on which it failed; failed: on all of them")
    if cost and any(row.n is not None for row in rows):  # what others measured, they say themselves
        found.append("merge s, peak MB: wall time and memory of one merge on one core")
    return found
