"""VideoMAE: an encoder of all tubelets of a clip at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optmerge.errors import InputError
from optmerge.omni.towers._kind import Extracted, TowerKind, TowerShape, hidden_options, hidden_states
from optmerge.omni.towers._pictures import pair


def _frames(encoder: Any, asked: int | None) -> int:
    own: int = encoder.num_frames
    if asked not in (None, own):
        raise InputError(
            "the encoder takes another number of frames",
            where="tower kind videomae",
            got=asked,
            expected=own,
            hint="leave frames out",
        )
    return own


def _grid(config: TowerShape) -> tuple[int, ...]:
    encoder = config.encoder
    (height, width), (tall, wide) = pair(encoder.image_size), pair(encoder.patch_size)
    return encoder.num_frames // encoder.tubelet_size, height // tall, width // wide


def _features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Videos (items, frames, 3, height, width) → (items, tubelets, rows, columns, width)."""
    states = hidden_states(config, encoder(values, **hidden_options(config)))
    return states.reshape(len(states), *_grid(config), -1)


def _extractor(config: TowerShape) -> Any:
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    height, width = pair(config.encoder.image_size)
    square = {"height": height, "width": width}
    return VideoMAEImageProcessorPil(size={"shortest_edge": min(height, width)}, crop_size=square)


def _extract(extractor: Any, items: Sequence[Sequence[Any]]) -> Extracted:
    """Lists of frames → (items, frames, 3, height, width)."""
    videos = [list(item) for item in items]
    return Extracted(extractor(videos, return_tensors="pt")["pixel_values"])


KIND = TowerKind(
    name="videomae",
    modality="video",
    encoders=("videomae",),
    grid=_grid,
    features=_features,
    extractor=_extractor,
    extract=_extract,
    pooling=(2, 2, 2),
    frames=_frames,
)
