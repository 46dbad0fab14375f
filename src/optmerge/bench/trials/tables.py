"""The table of a line: who is how good at what, made of rows and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from optmerge.bench.tasks import registered
from optmerge.bench.trials.cells import BASE, EXPERT, MIXTURE, ROUTING
from optmerge.bench.trials.grid import Entry, Grid
from optmerge.bench.trials.rows import AVERAGE, Row

EMPTY = Entry("–")


def table(title: str, rows: Sequence[Row], notes: Iterable[str] = ()) -> Grid:
    """One line's rows, a model and rule to a line; the best merge of each column is bold.

    Args:
        title: of the table.
        rows: of one line of models, in order.
        notes: to be said below.
    """
    capabilities = list(dict.fromkeys(row.capability for row in rows))
    models = [{row.capability: row for row in group} for _, group in groupby(rows, _who)]
    sets = any(row.deviation is not None for row in rows)
    cost = any(row.merge_seconds is not None for row in rows)
    best = {name: _best(rows, name) for name in capabilities}
    shares = [row.normalised for row in rows if row.capability == AVERAGE and is_merge(row.model)]
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
        merge = is_merge(first.model)
        line = [Entry(_name(first)), Entry(first.scale_rule if merge else ""), Entry(_scales(first))]
        for name in capabilities:
            line.append(_score(model.get(name), best[name]))
            if name == AVERAGE:
                line += [_deviation(model.get(name))] * sets + [_share(model.get(name), top)]
        if cost:
            line += [_number(first.merge_seconds, 1, 2), _number(first.merge_peak_bytes, 1e6, 0)]
        sections.setdefault((_section(first.model), first.scale_rule), []).append(tuple(line))
    return Grid(
        title, tuple(columns), 2, tuple(map(tuple, sections.values())), (*_legend(rows, cost), *notes)
    )


def headline(rows: Sequence[Row]) -> str:
    """One sentence on a line: its best merge beside base, experts and mixture."""
    averages = {
        (row.model, row.scale_rule): row
        for row in rows
        if row.capability == AVERAGE and row.score is not None
    }
    merges = [row for row in averages.values() if is_merge(row.model)]
    if not merges:
        return ""
    best = max(merges, key=lambda row: row.score or 0.0)
    words = f"{best.line}: {best.model} ({best.scale_rule} scale) averages {_percent(best)}"
    if best.normalised is not None:
        words += f", {100 * best.normalised:.1f} % of what the experts score on their own capabilities"
    others = [averages[name, "fixed"] for name in (BASE, ROUTING, MIXTURE) if (name, "fixed") in averages]
    return "; ".join([words, *(f"{row.model} {_percent(row)}" for row in others)]) + "."


def is_merge(model: str) -> bool:
    """Whether a name is a method's."""
    return model not in (BASE, MIXTURE, ROUTING) and not model.startswith(EXPERT)


def _who(row: Row) -> tuple[str, str]:
    return row.model, row.scale_rule


def _best(rows: Sequence[Row], capability: str) -> float | None:
    scores = [row.score for row in rows if row.capability == capability and is_merge(row.model)]
    return max((score for score in scores if score is not None), default=None)


def _title(capability: str) -> str:
    tasks = registered()
    return tasks[capability].title if capability in tasks else capability


def _name(row: Row) -> str:
    return f"{row.model.removeprefix(EXPERT)} expert" if row.model.startswith(EXPERT) else row.model


def _section(model: str) -> int:
    """Trained models, then merges, then what merging is measured by."""
    return 1 if is_merge(model) else 2 if model in (MIXTURE, ROUTING) else 0


def _scales(row: Row) -> str:
    """One scale, or the range over the sets."""
    if not row.scales:
        return ""
    low, high = min(row.scales), max(row.scales)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _score(row: Row | None, best: float | None) -> Entry:
    if row is None:
        return EMPTY
    if row.score is None:
        return Entry("failed" if row.failed else "–")
    doubt = f"{50 * (row.high - row.low):.1f}" if row.low is not None and row.high is not None else ""
    text = f"{100 * row.score:.1f}" + "†" * bool(row.failed)
    return Entry(text, doubt, is_merge(row.model) and row.score == best)


def _share(row: Row | None, top: float | None) -> Entry:
    if row is None or row.normalised is None:
        return EMPTY
    return Entry(f"{100 * row.normalised:.1f}", best=is_merge(row.model) and row.normalised == top)


def _deviation(row: Row | None) -> Entry:
    return Entry("" if row is None or row.deviation is None else f"{100 * row.deviation:.1f}")


def _number(value: float | None, unit: float, digits: int) -> Entry:
    return Entry("" if value is None else f"{value / unit:.{digits}f}")


def _percent(row: Row) -> str:
    deviation = "" if row.deviation is None else f" (±{100 * row.deviation:.1f} over {row.seeds} expert sets)"
    return f"{100 * (row.score or 0.0):.1f} %{deviation}"


def _legend(rows: Sequence[Row], cost: bool) -> list[str]:
    """What the figures are, as far as the table has them."""
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
