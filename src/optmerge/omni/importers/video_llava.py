"""Video-LLaVA: a tower for pictures and one for frames, with one projector for both."""

from __future__ import annotations

from typing import Any

from optmerge.omni.importers._importer import Importer
from optmerge.omni.importers._vision import PROJECTOR, picture_extractor, picture_tower


def _tower(config: Any, modality: str) -> dict[str, Any]:
    picture = picture_tower(config)
    if modality == "image":
        return picture
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    # Frames keep their class token, whatever is done with a picture's.
    frames = {"kind": "frames", "special": True, "frames": config.video_seq_length // (patches + 1)}
    return {**picture, **frames, "pooling": [1, 1]}


IMPORTER = Importer(
    model_type="video_llava",
    model_class="VideoLlavaForConditionalGeneration",
    encoders={"image": "model.image_tower", "video": "model.video_tower"},
    projector=PROJECTOR,
    tower=_tower,
    extractor=picture_extractor,
)
