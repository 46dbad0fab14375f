"""Shared by the commands that ask models questions of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optmerge.evaluate.evaluation import Show
    from optmerge.evaluate.statistics import Estimate

OMNI = "optmerge_omni"
"""`model_type` of omni models."""


def show_for(model_type: str | None) -> Show:
    """How questions are shown to a model; what omni models need is imported for them alone."""
    from optmerge.evaluate import chat

    if model_type != OMNI:
        return chat.show
    from optmerge.omni.ask import show

    return show


def percent(share: float) -> str:
    """A score, as in `71.3`."""
    return f"{100 * share:.1f}"


def interval(score: Estimate) -> str:
    """A score's interval, as in `68.0 to 74.1`."""
    return f"{percent(score.low)} to {percent(score.high)}"
