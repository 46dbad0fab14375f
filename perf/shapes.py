"""Real models' tensor names and shapes, from their configs, without a weight being made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A model in its real shape.

    Args:
        name: what to call it.
        config: keyword arguments of its config class.
        family: transformers' config class name.
        model: transformers' model class name.
    """

    name: str
    family: str
    model: str
    config: dict[str, Any]


_QWEN2_05B: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
}
_QWEN2_VL_VISION = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}

CASES = {
    case.name: case
    for case in (
        Case("qwen2-0.5b", "Qwen2Config", "Qwen2ForCausalLM", _QWEN2_05B),
        Case(
            "internvl2.5-1b",
            "InternVLConfig",
            "InternVLForConditionalGeneration",
            {
                "vision_config": {
                    "model_type": "internvl_vision",
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "intermediate_size": 4096,
                    "image_size": [448, 448],
                    "patch_size": [14, 14],
                },
                "text_config": {"model_type": "qwen2", **_QWEN2_05B, "vocab_size": 151674},
            },
        ),
        Case(
            "qwen2-vl-2b",
            "Qwen2VLConfig",
            "Qwen2VLForConditionalGeneration",
            {
                "text_config": {
                    "hidden_size": 1536,
                    "intermediate_size": 8960,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 12,
                    "num_key_value_heads": 2,
                    "vocab_size": 151936,
                },
                "vision_config": {**_QWEN2_VL_VISION, "hidden_size": 1536},
                "tie_word_embeddings": True,
            },
        ),
        Case(
            "qwen2-vl-7b",
            "Qwen2VLConfig",
            "Qwen2VLForConditionalGeneration",
            {
                "text_config": {
                    "hidden_size": 3584,
                    "intermediate_size": 18944,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 28,
                    "num_key_value_heads": 4,
                    "vocab_size": 152064,
                },
                "vision_config": {**_QWEN2_VL_VISION, "hidden_size": 3584},
                "tie_word_embeddings": False,
            },
        ),
    )
}


def tensors(case: Case) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    """config.json and the (name, shape) of every stored tensor, in state-dict order."""
    import transformers

    config = getattr(transformers, case.family)(**case.config)
    with torch.device("meta"):
        model = getattr(transformers, case.model)(config)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    config.architectures = [case.model]
    config.dtype = "bfloat16"
    stored = [(name, tuple(t.shape)) for name, t in model.state_dict().items() if name not in tied]
    return config.to_diff_dict() | {"model_type": config.model_type}, stored
