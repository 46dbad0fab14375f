"""Method × capability as a heat map, with the figures in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optmerge.bench.tasks import get
from optmerge.bench.trials.cells import BASE, EXPERT, MIXTURE, ROUTING
from optmerge.bench.trials.figures.style import Board, panels, ranked, score_of
from optmerge.bench.trials.rows import AVERAGE
from optmerge.bench.trials.selection import trained


def figure(boards: Sequence[Board]) -> Any:
    """A map a line: trained models, merges best first, references."""
    tallest = max(len({row.model for row in board.rows}) for board in boards)
    figure, axes = panels(len(boards), 6.9, 1.1 + 0.3 * tallest)
    for board, axis in zip(boards, axes, strict=True):
        _map(axis, board)
    return figure


def _map(axis: Any, board: Board) -> None:
    found, tasks = board.rows, trained(board.standing.tasks)
    columns = [*tasks, AVERAGE, *(task for task in board.standing.tasks if task not in tasks)]
    names = {row.model for row in found}
    groups = [
        [name for name in (BASE, *(EXPERT + task for task in tasks)) if name in names],
        ranked(found),
        [name for name in (ROUTING, MIXTURE) if name in names],
    ]
    models = [name for group in groups for name in group]
    values = np.array(
        [[score_of(found, model, column) or np.nan for column in columns] for model in models], dtype=float
    )
    axis.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.1f}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=8, color="white" if value < 55 else "black"
        )
    axis.set_xticks(range(len(columns)), [_title(column) for column in columns])
    axis.set_yticks(range(len(models)), [_label(model) for model in models])
    axis.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    edge = -0.5
    for group in groups[:-1]:
        edge += len(group)
        axis.axhline(edge, color="white", linewidth=4)
    for place in (len(tasks) - 0.5, len(tasks) + 0.5):
        axis.axvline(place, color="white", linewidth=4)
    axis.set_title(f"{board.title}: score in %", pad=24)


def _title(capability: str) -> str:
    return "average" if capability == AVERAGE else get(capability).title


def _label(model: str) -> str:
    return f"{get(model.removeprefix(EXPERT)).title} expert" if model.startswith(EXPERT) else model
