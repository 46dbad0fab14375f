"""How figures look: one font, and for each method a colour and mark that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optmerge.bench.trials.entrants import Standing
from optmerge.bench.trials.rows import AVERAGE, Row, rows
from optmerge.bench.trials.tables import is_merge
from optmerge.methods import registered

# Okabe and Ito's colours, which every common colour blindness tells apart; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = "osD^vPX"
GREY, INK = "#8A8A8A", "#222222"


@dataclass(frozen=True)
class Look:
    """Of one method."""

    colour: str
    mark: str
    dash: str


def look(method: str) -> Look:
    """The same in every figure and every run; more methods than colours differ in dashes and marks."""
    names = list(registered())
    place = names.index(method) if method in names else len(names)
    dash = ("-", "--", ":")[place // len(COLOURS) % 3]
    return Look(COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)], dash)


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib without a display, in our style, and as it was afterwards."""
    import matplotlib as mpl
    from matplotlib import pyplot

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "grid.color": "#E4E4E4",
        "axes.axisbelow": True,
        "figure.dpi": 100,
        "savefig.dpi": 160,
        "savefig.bbox": "tight",
        "svg.hashsalt": "optmerge",
    }
    backend = mpl.get_backend()
    pyplot.switch_backend("agg")
    try:
        with mpl.rc_context(settings):
            yield
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)


@dataclass(frozen=True)
class Board:
    """What a panel shows of a line.

    Args:
        standing: of the line.
        rows: of each model at the chosen scale where there is one, and at the default otherwise.
    """

    standing: Standing
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Of the panel."""
        return f"{self.standing.line} line"


def board(standing: Standing) -> Board:
    """A line's standing with its rows worked out."""
    everything = rows(standing)
    chosen = {row.model for row in everything if row.scale_rule == "validation"}
    kept = (row for row in everything if row.scale_rule == "validation" or row.model not in chosen)
    return Board(standing, tuple(kept))


def ranked(found: Sequence[Row]) -> list[str]:
    """The merges by their average, best first."""
    averages = {row.model: row.score for row in found if row.capability == AVERAGE and is_merge(row.model)}
    return sorted((m for m, s in averages.items() if s is not None), key=lambda m: -(averages[m] or 0.0))


def score_of(found: Sequence[Row], model: str, capability: str) -> float | None:
    """In percent."""
    for row in found:
        if (row.model, row.capability) == (model, capability) and row.score is not None:
            return 100 * row.score
    return None


def spread(places: Sequence[float], least: float) -> list[float]:
    """Heights for labels as near their places as can be (least squares), in order, `least` apart at least."""
    order = sorted(range(len(places)), key=lambda row: places[row])
    # Less `least` for each label below, heights need only rise: blocks that don't are pooled at their mean.
    blocks: list[list[float]] = []
    for rank, row in enumerate(order):
        blocks.append([places[row] - rank * least])
        while len(blocks) > 1 and fmean(blocks[-2]) >= fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    levels = [fmean(block) for block in blocks for _ in block]
    heights = {row: level + rank * least for rank, (row, level) in enumerate(zip(order, levels, strict=True))}
    return [heights[row] for row in range(len(places))]


def panels(number: int, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure with panels side by side, sized in inches each."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, number, figsize=(width * number, height), squeeze=False, layout="constrained", **options
    )
    return figure, list(axes[0])
