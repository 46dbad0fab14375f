"""How figures look: one font, and for each method a colour, mark and dash that belong to its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optmerge.bench.trials.line_scores import LineScores
from optmerge.bench.trials.rows import AVERAGE, ScoreRow, rows

# Okabe and Ito's colours, which every common colour blindness tells apart; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = "osD^vPX"
OTHER_MARKS = "<>ph*d8"
"""Marks of methods without an entry in `STYLES`, which has none of them."""
DASHES = ("-", "--", ":")
GREY, INK = "#8A8A8A", "#222222"


@dataclass(frozen=True)
class PlotStyle:
    """How a method is drawn.

    Args:
        colour: of lines and marks.
        mark: of points.
        dash: of lines.
    """

    colour: str
    mark: str
    dash: str


def _nth(place: int) -> PlotStyle:
    dash = DASHES[place // len(COLOURS) % len(DASHES)]
    return PlotStyle(COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)], dash)


STYLES: Mapping[str, PlotStyle] = {
    "aswudi": _nth(0),
    "average": _nth(1),
    "dare_task_arithmetic": _nth(2),
    "dare_ties": _nth(3),
    "iso_c": _nth(4),
    "optmerge": _nth(5),
    "slerp": _nth(6),
    "swudi": _nth(7),
    "task_arithmetic": _nth(8),
    "ties": _nth(9),
    "tsv": _nth(10),
    "wudi": _nth(11),
    "ace": _nth(12),
    "ace_ridge": _nth(13),
    "actmat": _nth(14),
    "cart": _nth(15),
    "dc_merge": _nth(16),
    "iso_cts": _nth(17),
}
"""Method → how it is drawn, in every figure and every run. A method that is added takes the next number."""


def style(method: str) -> PlotStyle:
    """How a method is drawn. One without an entry in `STYLES` gets a style that its name alone decides."""
    if method in STYLES:
        return STYLES[method]
    place = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    return PlotStyle(
        COLOURS[place % len(COLOURS)], OTHER_MARKS[place % len(OTHER_MARKS)], DASHES[place % len(DASHES)]
    )


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
class Panel:
    """What a panel shows of a line.

    Args:
        scores: of the line.
        rows: of each model at the chosen scale where there is one, and at the default otherwise.
    """

    scores: LineScores
    rows: tuple[ScoreRow, ...]

    @property
    def title(self) -> str:
        """Title of the panel."""
        return f"{self.scores.line} line"


def panel(scores: LineScores) -> Panel:
    """A line's scores with their rows worked out."""
    everything = rows(scores)
    chosen = {row.label for row in everything if row.scale_rule == "validation"}
    kept = (row for row in everything if row.scale_rule == "validation" or row.label not in chosen)
    return Panel(scores, tuple(kept))


def ranked(found: Sequence[ScoreRow]) -> list[str]:
    """The methods by the average of their merges, best first."""
    averages = {row.model: row.score for row in found if row.capability == AVERAGE and row.kind == "merge"}
    return sorted((m for m, s in averages.items() if s is not None), key=lambda m: -(averages[m] or 0.0))


def score_of(found: Sequence[ScoreRow], label: str, capability: str) -> float | None:
    """Score of the model with that label, in percent; None where there is none."""
    for row in found:
        if (row.label, row.capability) == (label, capability) and row.score is not None:
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


def side_by_side(number: int, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure with panels side by side, sized in inches each."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, number, figsize=(width * number, height), squeeze=False, layout="constrained", **options
    )
    return figure, list(axes[0])
