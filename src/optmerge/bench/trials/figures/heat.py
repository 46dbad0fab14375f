"""Method × capability as a heat map, with the scores in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optmerge.bench.tasks import get
from optmerge.bench.trials.figures.style import Panel, ranked, score_of, side_by_side
from optmerge.bench.trials.record_choice import trained
from optmerge.bench.trials.rows import AVERAGE, ScoreRow
from optmerge.bench.trials.trials import BASE, MIXTURE, ROUTING, label


def figure(panels: Sequence[Panel]) -> Any:
    """A map a line: trained models, merges best first, references."""
    tallest = max(len({row.label for row in panel.rows}) for panel in panels)
    figure, axes = side_by_side(len(panels), 6.9, 1.1 + 0.3 * tallest)
    for panel, axis in zip(panels, axes, strict=True):
        _map(axis, panel)
    return figure


def _map(axis: Any, panel: Panel) -> None:
    found, tasks = panel.rows, trained(panel.scores.tasks)
    columns = [*tasks, AVERAGE, *(task for task in panel.scores.tasks if task not in tasks)]
    there = {row.label: row for row in found}
    groups = [
        [each for each in (BASE, *(label("expert", task) for task in tasks)) if each in there],
        ranked(found),
        [each for each in (ROUTING, MIXTURE) if each in there],
    ]
    models = [each for group in groups for each in group]
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
    axis.set_yticks(range(len(models)), [_words(there[model]) for model in models])
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
    axis.set_title(f"{panel.title}: score in %", pad=24)


def _title(capability: str) -> str:
    return "average" if capability == AVERAGE else get(capability).title


def _words(row: ScoreRow) -> str:
    return f"{get(row.model).title} expert" if row.kind == "expert" else row.model
