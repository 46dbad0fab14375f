"""Pictures of the records: each a function from boards to a figure, drawn as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optmerge.bench.trials.entrants import Standing
from optmerge.bench.trials.figures import costs, heat, published, radar, sweep
from optmerge.bench.trials.figures.style import Board, board, styled

FIGURES: Mapping[str, Callable[[Sequence[Board]], Any]] = {
    "radar": radar.figure,
    "heat": heat.figure,
    "sweep": sweep.figure,
    "cost": costs.figure,
    "paper": published.figure,
}
"""Name of the file → what draws it; None where the records have nothing for it."""


def draw(standings: Sequence[Standing], folder: Path) -> list[Path]:
    """Draws every figure there are records for, as PNG and SVG; returns the files.

    Args:
        standings: one for each line.
        folder: made if need be; earlier figures are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boards, written = [board(standing) for standing in standings], []
    with styled():
        for name, make in FIGURES.items():
            figure = make(boards)
            if figure is None:
                continue
            for ending in ("png", "svg"):
                path = folder / f"{name}.{ending}"
                # No date in the file: equal records give equal bytes.
                figure.savefig(path, metadata={"Date": None} if ending == "svg" else None)
                written.append(path)
    return written
