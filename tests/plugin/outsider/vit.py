"""ViT's patches, after its last norm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from optmerge.omni.towers._kind import TowerKind, TowerShape, hidden_options, hidden_states
from optmerge.omni.towers._pictures import extract, pair


def _grid(config: TowerShape) -> tuple[int, ...]:
    (height, width), (tall, wide) = (
        pair(size) for size in (config.encoder.image_size, config.encoder.patch_size)
    )
    rows, columns = height // tall, width // wide
    return (1 + rows * columns,) if config.special else (rows, columns)


def _features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Pictures (items, 3, height, width) → their patches (items, rows, columns, width)."""
    states = hidden_states(config, encoder(values, **hidden_options(config)))  # (items, 1 + patches, width)
    return states if config.special else states[:, 1:].reshape(len(states), *_grid(config), -1)


def _extractor(config: TowerShape) -> Any:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    height, width = pair(config.encoder.image_size)
    return ViTImageProcessorPil(size={"height": height, "width": width})


KIND = TowerKind(
    name="vit",
    modality="image",
    encoders=("vit",),
    grid=_grid,
    features=_features,
    extractor=_extractor,
    extract=extract,
)
