"""Where in the class of a config PEFT finds what an adapter names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PeftPlaces:
    """What of a model's class an adapter can change.

    Args:
        name: of the class.
        adaptable: modules that PEFT puts factors on.
        parameters: every parameter and buffer.
    """

    name: str
    adaptable: frozenset[str]
    parameters: frozenset[str]


def peft_places(config: Mapping[str, Any]) -> PeftPlaces | str:
    """What PEFT finds in the class of a config, or why there is no class, in words that end a sentence.

    The class is built on the `meta` device: no weights, no code but that of transformers.

    Args:
        config: a checkpoint's config.json.

    Source: peft 0.21, `tuners/lora/layer.py`, `dispatch_default`.
    """
    try:
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from optmerge.architectures._meta_model import CannotBuildError, meta_model
    except ImportError as error:
        return f"transformers can't be imported ({error})"
    try:
        model = meta_model(config)
    except CannotBuildError as error:
        return str(error)
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
    return PeftPlaces(
        name=type(model).__name__,
        adaptable=frozenset(name for name, module in model.named_modules() if isinstance(module, kinds)),
        parameters=frozenset(model.state_dict()),
    )
