"""Omni models: a causal language model that takes pictures, sound and video through towers.

Importing a class makes it known to transformers' Auto classes; importing `OmniProcessor` does so for all.
"""

from typing import TYPE_CHECKING

from optmerge._lazy import lazy

if TYPE_CHECKING:
    from optmerge.omni.config import MODALITIES as MODALITIES
    from optmerge.omni.config import OmniConfig as OmniConfig
    from optmerge.omni.config import TowerConfig as TowerConfig
    from optmerge.omni.model import OmniForConditionalGeneration as OmniForConditionalGeneration
    from optmerge.omni.processor import OmniProcessor as OmniProcessor
    from optmerge.omni.processor import add_placeholders as add_placeholders

__getattr__, __all__ = lazy(__name__, __file__)
