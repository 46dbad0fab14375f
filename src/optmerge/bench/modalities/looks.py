"""Validation scores in the learning curves of the modality benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from optmerge.bench.modalities import clips, exam
from optmerge.bench.modalities.exam import SignalCache
from optmerge.bench.modalities.readings import Readings
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.world import MODALITIES, Modality
from optmerge.bench.training.curve import Curve

COUNT = 60
"""Validation questions with the same needs, or clips that are read."""
LookScores = Mapping[str, Mapping[str, float]]


class Looks(Curve):
    """A learning curve with looks of any kind.

    Args:
        path: the file.
        look: model in eval mode → what is written.
        every: steps between looks; 0 never looks.
    """

    def __init__(self, path: Path, look: Callable[[Any], LookScores], *, every: int) -> None:
        self.path, self.every, self._look = path, every, look

    def look(self, model: Any) -> dict[str, Any]:
        """Scores of the model at this step."""
        return dict(self._look(model))


def answers(
    model: Any, processor: Any, *, told: tuple[Modality, ...] = (), shown: Modality | None = None
) -> LookScores:
    """Scores by what is needed: of a base that is told everything, or an expert that sees or hears its own.

    The expert is told the rest; questions that don't need its own aren't asked.

    Args:
        model: a language model, or an omni model; comes back as it was.
        processor: of the model.
        told: what is described.
        shown: the expert's own.
    """
    told = told or tuple(each for each in MODALITIES if each != shown)
    towers = getattr(model, "towers", None)
    scores = {}
    for needs in NEEDS:
        if shown is not None and shown not in needs:
            continue
        items = exam.items("validation", needs, COUNT)
        seen = {}
        if shown is not None:
            indexes = [item.index for item in items]
            seen[shown] = SignalCache().of(model, processor, shown, "validation", indexes, "")
        here = [each for each in told if each in needs]
        given = [shown] if shown else []
        prompts = [exam.prompt("validation", item, given, described=here) for item in items]
        try:
            said = exam.answer(exam.without_towers(model), processor, prompts, seen)
        finally:
            if isinstance(towers, nn.ModuleDict):
                model.towers = towers
        pairs = zip(said, items, strict=True)
        scores["+".join(needs)] = round(fmean(exam.score(each, item.question) for each, item in pairs), 4)
    return {"score": scores}


@torch.inference_mode()
def readings(model: Any, batches: Readings) -> LookScores:
    """Share of right answers of each reading of validation clips."""
    found = model(**batches([clips.content("validation", index) for index in range(COUNT)]))
    return {"score": {name: round(float(share), 4) for name, share in found["right"].items()}}
