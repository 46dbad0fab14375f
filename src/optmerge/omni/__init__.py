"""Omni models: a causal language model that takes pictures, sound and video through towers.

Importing one of its classes makes it known to transformers' Auto classes; `OmniProcessor` brings the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "MODALITIES": "optmerge.omni.config",
    "OmniConfig": "optmerge.omni.config",
    "OmniForConditionalGeneration": "optmerge.omni.model",
    "OmniProcessor": "optmerge.omni.processor",
    "TowerConfig": "optmerge.omni.config",
    "add_placeholders": "optmerge.omni.processor",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that what needs no model doesn't wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optmerge.omni' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
