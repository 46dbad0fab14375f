"""The paper's results beside ours: the same methods in the same order, base and mixture as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optmerge.bench.trials import paper
from optmerge.bench.trials.figures.style import GREY, Panel, ranked, score_of, side_by_side, style
from optmerge.bench.trials.rows import AVERAGE, ScoreRow
from optmerge.bench.trials.trials import BASE, MIXTURE

COUNTERPARTS: Mapping[str, str] = {"full": "InternVL2.5-1B", "lora": "Qwen2-VL-7B"}
"""Line → the paper's model whose experts were made the same way."""
Column = tuple[str, Sequence[ScoreRow]]
"""Title and rows of a panel."""


def figure(panels: Sequence[Panel]) -> Any:
    """Two panels a line that has a counterpart; None without one."""
    columns: list[Column] = []
    for panel in panels:
        if model := COUNTERPARTS.get(panel.scores.line):
            columns += [(f"{model}, published", paper.rows(model)), (f"{panel.title}, ours", panel.rows)]
    if not columns:
        return None
    models = [method for _, found in columns for method in ranked(found)]
    order = sorted(set(models), key=lambda method: -_mean_place(columns, method))
    figure, axes = side_by_side(len(columns), 3.2, 0.9 + 0.32 * len(order), sharey=True)
    for axis, (title, found) in zip(axes, columns, strict=True):
        _dots(axis, title, found, order)
    return figure


def _mean_place(columns: Sequence[Column], method: str) -> float:
    """Mean rank from the last, in the columns that have the method, as a share."""
    places = [ranked(found) for _, found in columns]
    shares = [1 - order.index(method) / len(order) for order in places if method in order]
    return sum(shares) / len(shares)


def _dots(axis: Any, title: str, found: Sequence[ScoreRow], order: Sequence[str]) -> None:
    averages = {row.label: row for row in found if row.capability == AVERAGE and row.score is not None}
    for place, method in enumerate(order):
        row = averages.get(method)
        if row is None or row.score is None:
            continue
        drawn = style(method)
        if row.low is not None and row.high is not None:
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=drawn.colour, linewidth=1.5)
        axis.plot(100 * row.score, place, drawn.mark, color=drawn.colour, markersize=8, zorder=4)
        axis.annotate(
            f"{100 * row.score:.1f}",
            (100 * row.score, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        )
    for model, dash in ((BASE, "--"), (MIXTURE, "-")):
        score = score_of(found, model, AVERAGE)
        if score is not None:
            axis.axvline(score, color=GREY, linestyle=dash, linewidth=1.2)
            axis.annotate(
                model,
                (score, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                color=GREY,
                fontsize=8,
            )
    axis.set_yticks(range(len(order)), order)
    axis.set_ylim(len(order) - 0.5, -0.7)
    axis.set_xlabel("average, %")
    axis.margins(x=0.12)
    axis.set_title(title, pad=16, fontsize=10)
