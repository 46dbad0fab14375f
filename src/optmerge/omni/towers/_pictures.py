"""Parts shared by the kinds whose encoders take one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optmerge.errors import InputError
from optmerge.omni.towers._kind import Extracted, TowerShape, hidden_options, hidden_states

SPECIAL = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1}
"""`model_type` of a picture encoder → number of special tokens that it puts before the patches."""


def pair(size: Any) -> tuple[int, int]:
    """Height and width from a configuration that may give one number for both."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def grid(config: TowerShape) -> tuple[int, ...]:
    """Number of rows and columns of patches; where special tokens are kept, number of all tokens."""
    encoder = config.encoder
    (height, width), (tall, wide) = pair(encoder.image_size), pair(encoder.patch_size)
    rows, columns = height // tall, width // wide
    if not config.special:
        return rows, columns
    return (SPECIAL[encoder.model_type] + rows * columns,)


def features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Pictures (items, 3, height, width) → their patches (items, rows, columns, width)."""
    states = hidden_states(config, encoder(values, **hidden_options(config)))
    if config.special:
        return states
    patches = states[:, SPECIAL[config.encoder.model_type] :]
    return patches.reshape(len(patches), *grid(config), -1)


def extract(extractor: Any, items: Sequence[Any]) -> Extracted:
    """Pictures → (items, 3, height, width)."""
    return Extracted(extractor(images=list(items), return_tensors="pt")["pixel_values"])


def extractor(config: TowerShape) -> Any:
    """The image processor of the encoder's family, set to the encoder's size."""
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    height, width = pair(config.encoder.image_size)
    square = {"height": height, "width": width}
    if config.encoder.model_type == "siglip_vision_model":
        return SiglipImageProcessorPil(size=square)
    if height != width:
        raise InputError(
            "no image processor is known for this size",
            got=f"{height}×{width}",
            expected="a square",
            hint="make one and give it to OmniProcessor",
        )
    if config.encoder.model_type == "clip_vision_model":
        return CLIPImageProcessorPil(size={"shortest_edge": height}, crop_size=square)
    means = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    # DINOv2's own: a margin of an eighth is cut off, as for ImageNet.
    return BitImageProcessorPil(size={"shortest_edge": height * 8 // 7}, crop_size=square, **means)
