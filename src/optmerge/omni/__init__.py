"""Omni models: a causal language model that takes pictures, sound and video through towers.

Importing this package registers the model with transformers' Auto classes.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from optmerge.omni.config import MODALITIES, OmniConfig, TowerConfig
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor, add_placeholders

__all__ = [
    "MODALITIES",
    "OmniConfig",
    "OmniForConditionalGeneration",
    "OmniProcessor",
    "TowerConfig",
    "add_placeholders",
]

AutoConfig.register(OmniConfig.model_type, OmniConfig, exist_ok=True)
for _auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(OmniConfig, OmniForConditionalGeneration, exist_ok=True)
AutoProcessor.register(OmniConfig, OmniProcessor, exist_ok=True)
