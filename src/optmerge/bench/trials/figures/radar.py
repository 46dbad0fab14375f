"""Capabilities as a radar: what the experts reach each on its own, and how near the best merges come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optmerge.bench.tasks import get
from optmerge.bench.trials.figures.style import GREY, INK, Panel, ranked, score_of, side_by_side, style
from optmerge.bench.trials.record_choice import trained
from optmerge.bench.trials.trials import BASE, MIXTURE, ROUTING

SHOWN = 4
"""Merges in a radar; more would lie on top of each other."""
RINGS = (20, 40, 60, 80)
"""Rings of the radar's scale, in percent."""


def figure(panels: Sequence[Panel]) -> Any:
    """A radar a line."""
    figure, axes = side_by_side(len(panels), 5.2, 5.2, subplot_kw={"projection": "polar"})
    for panel, axis in zip(panels, axes, strict=True):
        _radar(axis, panel)
    return figure


def _radar(axis: Any, panel: Panel) -> None:
    found, tasks = panel.rows, trained(panel.scores.tasks)
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    lines: list[tuple[str, str, dict[str, Any]]] = [
        (ROUTING, "own experts", {"color": INK, "linestyle": ":", "linewidth": 1.6}),
        (MIXTURE, "mixture", {"color": INK, "linestyle": "-", "linewidth": 1.2}),
        (BASE, "base", {"color": GREY, "linestyle": "--", "linewidth": 1.6}),
    ]
    for rank, method in enumerate(ranked(found)[:SHOWN]):
        drawn = style(method)
        options = {"color": drawn.colour, "linewidth": 2, "marker": drawn.mark, "markersize": 5}
        options["zorder"] = 3 - rank / SHOWN  # the better above
        lines.append((method, method, options))
    for model, label, options in lines:
        scores = [score_of(found, model, task) for task in tasks]
        if None not in scores:
            axis.plot([*angles, angles[0]], [*scores, scores[0]], label=label, **options)
    axis.set_theta_offset(np.pi / 2)
    axis.set_theta_direction(-1)
    axis.set_xticks(angles, [get(task).title for task in tasks], fontsize=10)
    axis.tick_params(axis="x", pad=4)
    for angle, label in zip(angles, axis.get_xticklabels(), strict=True):
        side = np.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    axis.set_ylim(0, 100)
    axis.set_yticks(RINGS, [""] * len(RINGS))
    for score in RINGS:  # above the lines, as ticks' own labels can't be
        ground = {"color": "white", "pad": 0.8, "linewidth": 0}
        axis.text(np.pi / len(tasks), score, f"{score} %", color=GREY, fontsize=8, ha="center", bbox=ground)
    axis.spines["polar"].set_color("#CFCFCF")
    axis.set_title(panel.title, pad=22)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
