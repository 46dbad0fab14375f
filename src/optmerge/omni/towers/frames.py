"""A video as pictures: each frame through a picture encoder, then averaged over time and place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optmerge.errors import InputError
from optmerge.omni.towers._kind import Extracted, TowerKind, TowerShape
from optmerge.omni.towers._pictures import SPECIAL, extract, extractor, features, grid

DEFAULT_FRAMES = 8


def _frames(encoder: Any, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise InputError("a video needs frames", got=f"frames: {asked}", expected="≥ 1")
    return DEFAULT_FRAMES if asked is None else asked


def _grid(config: TowerShape) -> tuple[int, ...]:
    assert config.frames is not None
    return (config.frames, *grid(config))


def _features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Videos (items, frames, 3, height, width) → (items, frames, rows, columns, width)."""
    pictures = features(config, encoder, values.flatten(0, 1), mask)
    return pictures.reshape(*values.shape[:2], *pictures.shape[1:])


def _extract(extractor: Any, items: Sequence[Sequence[Any]]) -> Extracted:
    """Lists of frames, equally long → (items, frames, 3, height, width)."""
    frames = extract(extractor, [frame for item in items for frame in item]).values
    return Extracted(frames.reshape(len(items), -1, *frames.shape[1:]))


KIND = TowerKind(
    name="frames",
    modality="video",
    encoders=tuple(SPECIAL),
    grid=_grid,
    features=_features,
    extractor=extractor,
    extract=_extract,
    layer=-2,
    pooling=(2, 2, 2),
    frames=_frames,
)
