"""How the average on the validation split depends on the scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optmerge.bench.trials.figures.style import INK, Panel, side_by_side, spread, style
from optmerge.bench.trials.record_choice import SCALES, Sweeps, average
from optmerge.bench.trials.trials import TrialResult


def figure(panels: Sequence[Panel]) -> Any:
    """A panel a line; None without sweeps."""
    swept = [panel for panel in panels if panel.scores.sweeps]
    if not swept:
        return None
    figure, axes = side_by_side(len(swept), 5.6, 4.4)
    for panel, axis in zip(swept, axes, strict=True):
        _curves(axis, panel)
    return figure


def _curves(axis: Any, panel: Panel) -> None:
    curves = _means(panel.scores.sweeps)
    low, high = min(map(np.nanmin, curves.values())), max(map(np.nanmax, curves.values()))
    for method, curve in curves.items():
        drawn = style(method)
        axis.plot(SCALES, curve, color=drawn.colour, linestyle=drawn.dash, linewidth=1.8)
        default = _default(panel.scores.sweeps, method)
        for place, scale in enumerate(SCALES):
            best = curve[place] == np.nanmax(curve)
            face = drawn.colour if best else "white"
            if best or scale == default:
                axis.plot(
                    scale, curve[place], drawn.mark, color=drawn.colour, markerfacecolor=face, markersize=7
                )
    last = [curve[~np.isnan(curve)][-1] for curve in curves.values()]
    for method, place, height in zip(curves, last, spread(last, 0.045 * (high - low)), strict=True):
        axis.annotate(
            method,
            (SCALES[-1], place),
            xytext=(1.56, height),
            textcoords="data",
            va="center",
            color=style(method).colour,
            annotation_clip=False,
        )
    axis.set_xticks(SCALES)
    axis.set_xlabel("scale")
    axis.set_ylabel("average on the validation split, %")
    axis.set_title(f"{panel.title}: scale")
    axis.text(
        0.0,
        -0.2,
        "filled: best; hollow: the method's default",
        transform=axis.transAxes,
        color=INK,
        fontsize=8,
    )


def _means(sweeps: Sweeps) -> dict[str, Any]:
    """Method → average in % at each scale, mean over the expert sets; NaN where one failed."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for (method, _), sweep in sorted(sweeps.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        found[method].append([_percent(sweep, scale) for scale in SCALES])
    return {method: np.mean(curves, axis=0) for method, curves in found.items()}


def _percent(sweep: Mapping[float, TrialResult], scale: float) -> float:
    result = sweep[scale]
    return float("nan") if result.error is not None else 100 * average(result)


def _default(sweeps: Sweeps, method: str) -> float | None:
    trials = [
        result.trial for (name, _), sweep in sweeps.items() if name == method for result in sweep.values()
    ]
    scales = (trial.scale for trial in trials if trial.default)
    return next((scale for scale in scales if isinstance(scale, float)), None)
