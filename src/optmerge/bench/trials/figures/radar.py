"""Capabilities as a radar: what the experts reach each on its own, and how near the best merges come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optmerge.bench.tasks import get
from optmerge.bench.trials.cells import BASE, MIXTURE, ROUTING
from optmerge.bench.trials.figures.style import GREY, INK, Board, look, panels, ranked, score_of
from optmerge.bench.trials.selection import trained

SHOWN = 4
"""Merges; more lie on top of each other."""
RINGS = (20, 40, 60, 80)
"""Of the scale, in percent."""


def figure(boards: Sequence[Board]) -> Any:
    """A radar a line."""
    figure, axes = panels(len(boards), 5.2, 5.2, subplot_kw={"projection": "polar"})
    for board, axis in zip(boards, axes, strict=True):
        _radar(axis, board)
    return figure


def _radar(axis: Any, board: Board) -> None:
    found, tasks = board.rows, trained(board.standing.tasks)
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    lines: list[tuple[str, str, dict[str, Any]]] = [
        (ROUTING, "own experts", {"color": INK, "linestyle": ":", "linewidth": 1.6}),
        (MIXTURE, "mixture", {"color": INK, "linestyle": "-", "linewidth": 1.2}),
        (BASE, "base", {"color": GREY, "linestyle": "--", "linewidth": 1.6}),
    ]
    for rank, method in enumerate(ranked(found)[:SHOWN]):
        style = look(method)
        options = {"color": style.colour, "linewidth": 2, "marker": style.mark, "markersize": 5}
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
    axis.set_title(board.title, pad=22)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
