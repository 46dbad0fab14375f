"""Loading a checkpoint in transformers, strictly, and asking it for a few tokens."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from optmerge.architectures import Architecture

NEW_TOKENS = 4

Outcome = tuple[Any, bool | None, str]
"""A model or None, whether all is well (None: it couldn't be looked at), and what was found."""


def support_of(architecture: Architecture) -> Any:
    """The installed module that loads and checks an architecture's models; None where transformers does."""
    return import_module(architecture.support) if architecture.support else None


def load_strictly(path: Path, config: dict[str, Any], architecture: Architecture) -> Outcome:
    """The model in its own class, and whether any key was missing, unexpected or of another shape."""
    try:
        import transformers
    except ImportError:
        return None, None, "transformers isn't installed: pip install 'optmerge[verify]'"
    support = support_of(architecture)
    if support is None and config.get("auto_map"):
        return None, None, "needs its own remote code, which is never run here"
    name = support.MODEL.__name__ if support else (config.get("architectures") or [None])[0]
    model_class = support.MODEL if support else getattr(transformers, str(name), None)
    if model_class is None:
        return None, None, f"transformers {transformers.__version__} has no class {name}"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(path, output_loading_info=True, dtype="auto")
    except AttributeError:  # Qwen2.5-Omni's class takes the pair for the model
        model = model_class.from_pretrained(path, dtype="auto")
        return model.eval(), True, f"{name}, whose class doesn't tell of missing keys"
    faults = {key: sorted(map(str, info.get(key) or ())) for key in _FAULTS}
    words = "; ".join(f"{key}: {', '.join(names[:3])}" for key, names in faults.items() if names)
    if words:
        return model, False, words
    count = sum(parameter.numel() for parameter in model.parameters())
    return model.eval(), True, f"{name}, {count:,} parameters, no missing or unexpected key"


_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def load_adapter_strictly(
    path: Path, base: Path, config: dict[str, Any], architecture: Architecture
) -> Outcome:
    """The base with the adapter on it, and whether peft found a key missing or unexpected."""
    model, ok, detail = load_strictly(base, config, architecture)
    if model is None:
        return None, ok, detail
    try:
        import peft
        from safetensors import safe_open
    except ImportError:
        return None, None, "peft isn't installed: pip install 'optmerge[peft]'"
    settings = peft.PeftConfig.from_pretrained(path)
    settings.base_model_name_or_path = model.name_or_path  # PEFT warns of any other way to write the path
    wrapped = peft.get_peft_model(model, settings)
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    result = peft.set_peft_model_state_dict(wrapped, state)
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        return wrapped, False, f"missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
    return wrapped.eval(), True, f"peft puts {len(state)} tensors on the base"


def smoke_generation(model: Any, path: Path, architecture: Architecture) -> Outcome:
    """A few greedy tokens from a short prompt; the logits must be finite.

    The prompt is of valid ids; where the architecture has a support module, it is the module's.
    """
    if not (hasattr(model, "can_generate") and model.can_generate()):
        return None, None, f"{type(model).__name__} doesn't generate"
    support, ids = support_of(architecture), torch.tensor([[1, 2, 3]])
    words = f"{support.SMOKE}, " if support else ""
    prompt = (
        support.smoke_inputs(path) if support else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    )
    with torch.inference_mode():
        out = model.generate(
            **prompt,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    finite = all(bool(torch.isfinite(step).all()) for step in out.logits)
    tokens = out.sequences[0].tolist()
    return None, finite, f"{words}tokens {tokens}" if finite else "logits hold NaN or infinity"
