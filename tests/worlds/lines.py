"""The benchmark's lines so small that training them takes seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from optmerge.bench.lines.tiny.family import TinySize
from optmerge.bench.training.learning import Stage
from optmerge.bench.training.stages import LineStage, stages_of

SIZE = TinySize(
    patch=28, merge=2, vision_width=32, vision_layers=1, width=32, layers=1, heads=1, groups=1, mlp=32
)
"""A line's model in its smallest shape: four image tokens."""


def stages(line: str, names: Collection[str], **changes: object) -> dict[str, LineStage]:
    """The line's own stages of these names, two steps each, with adapters that fit the smallest model."""
    return {
        name: replace(stage, settings=shortened(stage.settings, **changes))
        for name, stage in stages_of(line).items()
        if name in names
    }


def shortened(settings: Stage, **changes: object) -> Stage:
    """A stage's settings for the smallest model and two steps."""
    few = {"pictures": 4, "batch": 2, "rank": 4, "look_every": 0, **changes}
    return replace(settings, aimed=min(settings.aimed, 8), **few)
