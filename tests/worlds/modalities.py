"""Models of the modality benchmark so small that training them takes seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optmerge.bench import records
from optmerge.bench.modalities import training
from optmerge.bench.modalities.models import OmniSize
from optmerge.bench.modalities.training import STAGES
from optmerge.bench.records import Record
from optmerge.bench.training.learning import Stage
from optmerge.bench.training.runner import RECORDS

SIZE = OmniSize(
    width=64,
    layers=1,
    heads=2,
    groups=1,
    mlp=32,
    encoder_width=32,
    encoder_layers=1,
    encoder_mlp=16,
    patch=28,
    image_pooling=(2, 2),
    video_pooling=(2, 1, 4),
    audio_pooling=(10,),
)


def stages(**changes: object) -> dict[str, Stage]:
    """The benchmark's own stages, two steps of one clip each."""
    settings = {"pictures": 2, "batch": 1, "keep_every": 0, "look_every": 0, **changes}
    return {name: replace(stage, **settings) for name, stage in STAGES.items()}


def train(out: Path) -> Record:
    """Every stage, with the seed that the command line has by default."""
    return training.train(out, stages=stages(), size=SIZE, threads=1)


def record_of(zoo: Path) -> Record:
    """What `train` recorded of a zoo."""
    [record] = records.read(zoo / "work" / RECORDS)
    return record
