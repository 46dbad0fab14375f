"""Pictures of the records: each is a function from panels, one a line, to a figure. Drawn as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optmerge.bench.trials.figures import costs, heat, published, radar, sweep
from optmerge.bench.trials.figures.style import Panel, panel, styled
from optmerge.bench.trials.line_scores import LineScores

FIGURES: Mapping[str, Callable[[Sequence[Panel]], Any]] = {
    "radar": radar.figure,
    "heat": heat.figure,
    "sweep": sweep.figure,
    "cost": costs.figure,
    "paper": published.figure,
}
"""Name of the file → function that makes the figure, or None where the records have nothing for it."""


def draw(lines: Sequence[LineScores], folder: Path) -> list[Path]:
    """Draws every figure that there are records for, as PNG and SVG; returns the files.

    Args:
        lines: scores of each line.
        folder: made if need be; earlier figures are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    panels, written = [panel(each) for each in lines], []
    with styled():
        for name, make in FIGURES.items():
            figure = make(panels)
            if figure is None:
                continue
            for ending in ("png", "svg"):
                path = folder / f"{name}.{ending}"
                # No date in the file: equal records give equal bytes.
                figure.savefig(path, metadata={"Date": None} if ending == "svg" else None)
                written.append(path)
    return written
