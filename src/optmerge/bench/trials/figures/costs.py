"""Seconds of a merge beside the average of the merged model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optmerge.bench.trials.figures.style import GREY, Panel, score_of, side_by_side, spread, style
from optmerge.bench.trials.rows import AVERAGE, ScoreRow
from optmerge.bench.trials.trials import BASE, MIXTURE, ROUTING

REFERENCE_DASHES = {BASE: "--", ROUTING: ":", MIXTURE: "-"}


def figure(panels: Sequence[Panel]) -> Any:
    """A panel a line: seconds of a merge, to the power of ten, against the average."""
    figure, axes = side_by_side(len(panels), 5.6, 4.4)
    for panel, axis in zip(panels, axes, strict=True):
        _scatter(axis, panel)
    shown = [handle for axis in axes for handle in zip(*axis.get_legend_handles_labels(), strict=True)]
    methods = {label: handle for handle, label in sorted(shown, key=lambda each: each[1])}
    figure.legend(methods.values(), methods, loc="outside lower center", ncols=3 * len(axes), frameon=False)
    return figure


def _scatter(axis: Any, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    found = panel.rows
    points = [r for r in found if r.capability == AVERAGE and r.kind == "merge" and r.score is not None]
    for row in points:
        drawn = style(row.model)
        score, low, high = (100 * (value or 0.0) for value in (row.score, row.low, row.high))
        axis.errorbar(
            row.merge_seconds,
            score,
            yerr=[[score - low], [high - score]],
            color=drawn.colour,
            marker=drawn.mark,
            markersize=8,
            capsize=3,
            linewidth=1.2,
            linestyle="none",
            label=row.model,
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    _references(axis, found)
    axis.set_xlabel("seconds of a merge on one core")
    axis.set_ylabel("average, % (with the 95 % interval)")
    axis.set_title(f"{panel.title}: cost")
    axis.margins(x=0.1)


def _references(axis: Any, found: Sequence[ScoreRow]) -> None:
    """Base, routing and mixture as lines, named at their right ends."""
    levels = {model: score_of(found, model, AVERAGE) for model in (BASE, ROUTING, MIXTURE)}
    there = {model: level for model, level in levels.items() if level is not None}
    for model, level in there.items():
        axis.axhline(level, color=GREY, linestyle=REFERENCE_DASHES[model], linewidth=1.2)
    low, high = axis.get_ylim()
    for model, height in zip(there, spread(list(there.values()), 0.05 * (high - low)), strict=True):
        axis.text(1.01, height, model, transform=axis.get_yaxis_transform(), va="center", color=GREY)
