"""One picture of a comparison: images, their questions, and what every model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RIGHT, WRONG, GOLD, INK = "#1a7f4b", "#b3261e", "#f2ede0", "#202124"
RIGHT_FILL, WRONG_FILL, MERGE_EDGE = "#e3f4ea", "#fbe6e4", "#3b6fd4"


@dataclass(frozen=True)
class Panel:
    """One image and its questions; `answers[question][model]` is (text, correct)."""

    image: Any
    questions: Sequence[str]
    gold: Sequence[str]
    answers: Sequence[Sequence[tuple[str, bool]]]


def draw(path: Path, panels: Sequence[Panel], models: Sequence[str], *, merged: int, title: str) -> Path:
    """Write the picture as PNG.

    Args:
        path: the file to write.
        panels: one row of the picture each.
        models: column heads, in the order of the answers.
        merged: the column that is framed: the model the picture is about.
        title: one line above everything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(panel.questions) for panel in panels)
    tall = 0.42 * rows + 0.3
    figure = Figure(figsize=(4.6 + 1.15 * (len(models) + 1), tall * len(panels) + 1.1), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(panels), 2, width_ratios=[tall - 0.15, 3.2 + 1.15 * (len(models) + 1)],
        left=0.015, right=0.99, top=1 - 0.95 / figure.get_figheight(), bottom=0.02, wspace=0.02, hspace=0.12,
    )  # fmt: skip
    figure.text(
        0.015, 1 - 0.22 / figure.get_figheight(), title, size=12.5, weight="bold", color=INK, va="center"
    )
    for row, panel in enumerate(panels):
        picture = figure.add_subplot(grid[row, 0])
        picture.imshow(panel.image, interpolation="nearest")
        picture.set(xticks=[], yticks=[])
        picture.spines[:].set_color("#d0d4da")
        _answers(figure.add_subplot(grid[row, 1]), panel, models, rows, merged, heads=row == 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _answers(axes: Any, panel: Panel, models: Sequence[str], rows: int, merged: int, *, heads: bool) -> None:
    """The questions of one image as a table; unit of x: one model's column."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    first = 2.9  # columns the question takes
    axes.set(xlim=(0, first + 1 + len(models)), ylim=(rows, 0))
    axes.axis("off")
    centred = {"ha": "center", "va": "center"}
    for column, head in enumerate(("truth", *models)) if heads else ():
        strong = column == merged + 1
        axes.text(first + column + 0.5, -0.12, head.replace(" ", "\n"), ha="center", va="bottom", size=9.5,
                  color=MERGE_EDGE if strong else INK, weight="bold" if strong else "normal")  # fmt: skip
    for row, (question, gold, given) in enumerate(
        zip(panel.questions, panel.gold, panel.answers, strict=True)
    ):
        axes.text(0.1, row + 0.5, question, va="center", size=9.5, color=INK)
        axes.add_patch(Rectangle((first + 0.04, row + 0.08), 0.92, 0.84, color=GOLD, lw=0))
        axes.text(first + 0.5, row + 0.5, gold, size=9.5, color=INK, **centred)
        for column, (text, right) in enumerate(given):
            left = first + 1 + column
            fill = RIGHT_FILL if right else WRONG_FILL
            axes.add_patch(Rectangle((left + 0.04, row + 0.08), 0.92, 0.84, color=fill, lw=0))
            mark = "✓ " if right else "✗ "
            shortened = text if len(text) <= 11 else text[:10] + "…"
            axes.text(left + 0.5, row + 0.5, mark + (shortened or "–"), size=9.5,
                      color=RIGHT if right else WRONG, **centred)  # fmt: skip
    frame = FancyBboxPatch((first + 1 + merged + 0.02, 0.03), 0.96, rows - 0.06, boxstyle="square,pad=0",
                           fill=False, edgecolor=MERGE_EDGE, lw=1.6)  # fmt: skip
    axes.add_patch(frame)
