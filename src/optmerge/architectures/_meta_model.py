"""A model of transformers built from its config alone: no weights, no code but that of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import CONFIG_MAPPING, PreTrainedModel, initialization
from transformers.models.auto import modeling_auto as auto

MOST_MODULES = 500_000
"""Most modules of a model that is built; a config may ask for any number of layers."""

TASKS = (
    *("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "TEXT_TO_WAVEFORM"),
    *("PRETRAINING", "CAUSAL_LM", "MASKED_LM"),
)
"""Tasks whose classes hold all of a model, in the order they are tried where a config names no class."""


class CannotBuildError(Exception):
    """Why a config leads to no model, in words that end a sentence."""


def meta_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a config with every tensor on the `meta` device.

    Raises:
        CannotBuildError: transformers has no such type or class, or the class can't be built.
    """
    kind = str(config.get("model_type"))
    version = f"transformers {transformers.__version__}"
    if kind not in CONFIG_MAPPING:
        raise CannotBuildError(f"{version} has no model type {kind!r}")
    model_class = _model_class(config, kind)
    if model_class is None:
        raise CannotBuildError(f"{version} has no class for model type {kind!r}")
    try:
        with _quiet(), _without_weights():
            settings = CONFIG_MAPPING[kind].from_dict(_plain(config))
            settings._attn_implementation = "eager"
            return model_class(settings)
    except Exception as error:  # whatever a class makes of a strange config
        first = str(error).strip().partition("\n")[0][:200]
        raise CannotBuildError(
            f"{model_class.__name__} of {version} can't be built from its config "
            f"({type(error).__name__}: {first})"
        ) from None


def _model_class(config: Mapping[str, Any], kind: str) -> type[PreTrainedModel] | None:
    """The class that the config names, else the one of its type that holds the most."""
    tables = (getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS)
    by_type = [table[kind] for table in (*tables, auto.MODEL_MAPPING_NAMES) if kind in table]
    names = [*(config.get("architectures") or ()), *by_type]
    for name in (each if isinstance(each, str) else each[0] for each in names):
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return None


def _plain(value: Any) -> Any:
    """A deep copy without what leads to other code or to weights elsewhere; ±inf and NaN as numbers."""
    if isinstance(value, Mapping):
        if value.keys() == {"__float__"}:  # how transformers 5 writes what JSON has no number for
            return float(value["__float__"])
        kept = {key: _plain(item) for key, item in value.items()}
        for key in ("auto_map", "quantization_config", "_attn_implementation", "attn_implementation"):
            kept.pop(key, None)
        if "use_pretrained_backbone" in kept:
            kept["use_pretrained_backbone"] = False
        return kept
    return [_plain(item) for item in value] if isinstance(value, list) else value


@contextmanager
def _without_weights() -> Iterator[None]:
    """Tensors are made on `meta`, not filled, and a model has an end."""
    count = 0

    def counted(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"more than {MOST_MODULES:,} modules")

    hook = register_module_module_registration_hook(counted)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.device("meta"))
            stack.enter_context(initialization.no_init_weights())
            stack.enter_context(initialization.no_tie_weights())
            stack.enter_context(initialization.meta_device_safe_creation_ops())
            yield
    finally:
        hook.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' warnings about a config are for those who load its model."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
