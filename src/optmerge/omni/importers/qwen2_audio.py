"""Qwen2-Audio: one tower for sound, its projector a single layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optmerge.omni.config import TowerConfig
from optmerge.omni.importers._importer import Importer


def _tower(config: Any, modality: str) -> dict[str, Any]:
    return {"kind": "qwen2_audio", "encoder": config.audio_config, "projector_depth": 1}


def _extractor(folder: Path, tower: TowerConfig) -> Any:
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)


IMPORTER = Importer(
    model_type="qwen2_audio",
    model_class="Qwen2AudioForConditionalGeneration",
    encoders={"audio": "model.audio_tower"},
    projector=("model.multi_modal_projector.linear",),
    tower=_tower,
    extractor=_extractor,
)
