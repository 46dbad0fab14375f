"""LLaVA 1.5: one tower for pictures."""

from __future__ import annotations

from typing import Any

from optmerge.omni.importers._importer import Importer
from optmerge.omni.importers._vision import PROJECTOR, picture_extractor, picture_tower


def _tower(config: Any, modality: str) -> dict[str, Any]:
    return picture_tower(config)


IMPORTER = Importer(
    model_type="llava",
    model_class="LlavaForConditionalGeneration",
    encoders={"image": "model.vision_tower"},
    projector=PROJECTOR,
    tower=_tower,
    extractor=picture_extractor,
)
