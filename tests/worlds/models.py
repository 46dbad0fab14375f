"""Tiny real models of every family, built from configs: nothing is downloaded.

`TINY[name]()` builds a model, `inputs(model)` what it needs to use each of its modalities, `forward(model)`
its logits. Widths differ from each other wherever the class lets them, so that no orientation is hidden by a
square, and no parameter is left at zero or one, so that every modality reaches the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

VOCABULARY, IMAGE, VIDEO, AUDIO = 96, 90, 91, 92
HIDDEN, PATCH, SIDE = 32, 4, 8
PATCHES = (SIDE // PATCH) ** 2

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SPARSE = {"moe_intermediate_size": 20, "num_experts": 3, "num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_CLIP = {"model_type": "clip_vision_model", **_VISION}
_SIGLIP = {"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False}
_LLAMA, _MISTRAL, _QWEN2, _COHERE2, _GEMMA, _GEMMA3 = (
    {"model_type": kind, **_TEXT} for kind in ("llama", "mistral", "qwen2", "cohere2", "gemma", "gemma3_text")
)
_GEMMA["head_dim"] = _GEMMA3["head_dim"] = 12
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 93}
_QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 2}
_QWEN3_VISION = {
    **_QWEN_VISION,
    "hidden_size": 16,
    "intermediate_size": 24,
    "out_hidden_size": HIDDEN,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
_QWEN25_VISION = {
    **_QWEN_VISION,
    "hidden_size": 16,
    "intermediate_size": 24,
    "out_hidden_size": HIDDEN,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
_AUDIO = {
    "num_mel_bins": 8,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 8,
}

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _TEXT),
    "mistral": ("MistralForCausalLM", _TEXT),
    "qwen2": ("Qwen2ForCausalLM", _TEXT),
    "qwen3": ("Qwen3ForCausalLM", {**_TEXT, "head_dim": 12}),
    "gemma": ("GemmaForCausalLM", _GEMMA),
    "gemma2": ("Gemma2ForCausalLM", {**_TEXT, "head_dim": 12}),
    "gemma3_text": ("Gemma3ForCausalLM", _GEMMA3),
    "phi3": ("Phi3ForCausalLM", _TEXT),
    "olmo2": ("Olmo2ForCausalLM", _TEXT),
    "granite": ("GraniteForCausalLM", _TEXT),
    "smollm3": ("SmolLM3ForCausalLM", _TEXT),
    "starcoder2": ("Starcoder2ForCausalLM", _TEXT),
    "cohere2": ("Cohere2ForCausalLM", _TEXT),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "n_embd": HIDDEN,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "n_inner": 48,
        },
    ),
    "mixtral": ("MixtralForCausalLM", {**_TEXT, "intermediate_size": 20, "num_local_experts": 3}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**_TEXT, **_SPARSE, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**_TEXT, **_SPARSE, "head_dim": 12}),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        {
            **_QWEN_TOKENS,
            "text_config": {**_TEXT, **_MROPE},
            "vision_config": {**_QWEN_VISION, "embed_dim": 16, "mlp_ratio": 2, "hidden_size": HIDDEN},
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {**_QWEN_TOKENS, "text_config": {**_TEXT, **_MROPE}, "vision_config": _QWEN25_VISION},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {**_QWEN_TOKENS, "text_config": {**_TEXT, **_MROPE, "head_dim": 8}, "vision_config": _QWEN3_VISION},
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoeForConditionalGeneration",
        {
            **_QWEN_TOKENS,
            "text_config": {**_TEXT, **_SPARSE, **_MROPE, "head_dim": 8},
            "vision_config": _QWEN3_VISION,
        },
    ),
    "qwen2_5_omni_thinker": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": AUDIO,
            "vision_start_token_id": 93,
            "text_config": {**_TEXT, **_MROPE},
            "vision_config": _QWEN25_VISION,
            "audio_config": {**_AUDIO, "n_window": 4, "output_dim": HIDDEN},
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _CLIP, "image_token_index": IMAGE},
    ),
    "llava_next": (
        "LlavaNextForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _CLIP,
            "image_token_index": IMAGE,
            "image_grid_pinpoints": [[SIDE, SIDE]],
        },
    ),
    "llava_onevision": (
        "LlavaOnevisionForConditionalGeneration",
        {
            "text_config": _QWEN2,
            "vision_config": _SIGLIP,
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
            "image_grid_pinpoints": [[SIDE, SIDE]],
        },
    ),
    "video_llava": (
        "VideoLlavaForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _CLIP,
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
        },
    ),
    "vipllava": (
        "VipLlavaForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _CLIP,
            "image_token_index": IMAGE,
            "vision_feature_layer": [-2, -1],
        },
    ),
    "aya_vision": (
        "AyaVisionForConditionalGeneration",
        {"text_config": _COHERE2, "vision_config": _SIGLIP, "image_token_index": IMAGE},
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": _MISTRAL,
            "vision_config": {"model_type": "pixtral", **_VISION, "image_size": 2 * SIDE},
            "image_token_index": IMAGE,
        },
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": _GEMMA,
            "vision_config": _SIGLIP,
            "image_token_index": IMAGE,
            "projection_dim": HIDDEN,
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _GEMMA3,
            "vision_config": _SIGLIP,
            "image_token_index": IMAGE,
            "mm_tokens_per_image": PATCHES,
            "boi_token_index": 93,
            "eoi_token_index": 94,
        },
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {
            "text_config": _QWEN2,
            "vision_config": {
                **_VISION,
                "image_size": [SIDE, SIDE],
                "patch_size": [PATCH, PATCH],
                "use_qk_norm": True,
                "use_mask_token": True,
            },
            "image_token_id": IMAGE,
        },
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": IMAGE, "scale_factor": 2},
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": IMAGE, "scale_factor": 2},
    ),
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": {
                **_TEXT,
                "cross_attention_layers": [1],
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "image_size": SIDE,
                "patch_size": PATCH,
                "vision_output_dim": 32,
                "intermediate_layers_indices": [0],
                "max_num_tiles": 1,
                "supported_aspect_ratios": [[1, 1]],
            },
            "image_token_index": IMAGE,
        },
    ),
    "qwen2_audio": (
        "Qwen2AudioForConditionalGeneration",
        {"text_config": _QWEN2, "audio_config": _AUDIO, "audio_token_index": AUDIO},
    ),
}


def build(name: str, **overrides: Any) -> PreTrainedModel:
    """A tiny model of the family, the same one every time; `overrides` go into the top of its config."""
    class_name, fields = _CONFIGS[name]
    config = AutoConfig.for_model(**{"model_type": name, **_copied(fields), **overrides})
    config.architectures = [class_name]
    torch.manual_seed(sum(name.encode()))
    model: PreTrainedModel = getattr(transformers, class_name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


TINY: dict[str, Callable[[], PreTrainedModel]] = {name: partial(build, name) for name in _CONFIGS}


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """A minimal batch that goes through every modality of the model, the same one every time."""
    torch.manual_seed(0)
    return _INPUTS.get(model.config.model_type, _text)()


def forward(model: PreTrainedModel) -> Tensor:
    """Logits on `inputs(model)`."""
    with torch.no_grad():
        logits: Tensor = model(**inputs(model)).logits
    return logits


def _copied(value: Any) -> Any:
    """A deep copy: config classes write into the dictionaries they are given."""
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _tokens(**placeholders: int) -> dict[str, Tensor]:
    """A sentence with a run of placeholder tokens for each modality."""
    ids = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
    runs = [token for modality, count in placeholders.items() for token in [*[ids[modality]] * count, 7]]
    return {"input_ids": torch.tensor([[1, 5, *runs, 11, 13]])}


def _text() -> dict[str, Tensor]:
    return _tokens()


def _image(tokens: int = PATCHES, shape: tuple[int, ...] = (1,), **extra: Tensor) -> dict[str, Tensor]:
    return {**_tokens(image=tokens), "pixel_values": torch.randn(*shape, 3, SIDE, SIDE), **extra}


def _anyres() -> dict[str, Tensor]:
    """The picture as a whole, then as a grid of one tile with a newline after each of its rows."""
    rows = SIDE // PATCH
    return _image(PATCHES + rows * (rows + 1), (1, 2), image_sizes=torch.tensor([[SIDE, SIDE]]))


def _sized() -> dict[str, Tensor]:
    """Twice as wide and high, since the patches are merged two by two."""
    sizes = torch.tensor([[2 * SIDE, 2 * SIDE]])
    return {**_tokens(image=PATCHES), "pixel_values": torch.randn(1, 3, *sizes[0]), "image_sizes": sizes}


def _image_and_clip() -> dict[str, Tensor]:
    frames = 2
    clip = {"pixel_values_videos": torch.randn(1, frames, 3, SIDE, SIDE)}
    picture = {"pixel_values_images": torch.randn(1, 3, SIDE, SIDE)}
    return {**_tokens(image=PATCHES, video=frames * (PATCHES + 1)), **picture, **clip}


def _patches(**placeholders: int) -> dict[str, Tensor]:
    """A Qwen picture of 4 × 4 patches, two frames deep, merged two by two."""
    tokens = _tokens(image=4, **placeholders)
    return {
        **tokens,
        "pixel_values": torch.randn(16, 3 * 2 * PATCH * PATCH),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (tokens["input_ids"] == IMAGE).long(),
    }


def _patches_and_sound() -> dict[str, Tensor]:
    batch = _patches(audio=2)
    sound = {"input_features": torch.randn(1, 8, 8), "feature_attention_mask": torch.ones(1, 8).long()}
    return {key: value for key, value in batch.items() if key != "mm_token_type_ids"} | sound


def _sound() -> dict[str, Tensor]:
    return {
        **_tokens(audio=4),
        "input_features": torch.randn(1, 8, 16),
        "feature_attention_mask": torch.ones(1, 16).long(),
    }


def _tile() -> dict[str, Tensor]:
    one = torch.ones(1, 1).long()
    batch = _image(1, (1, 1, 1), aspect_ratio_ids=one, aspect_ratio_mask=one[None])
    return {**batch, "cross_attention_mask": torch.ones(1, batch["input_ids"].shape[1], 1, 1).long()}


def _gemma() -> dict[str, Tensor]:
    batch = _image()
    return {**batch, "token_type_ids": (batch["input_ids"] == IMAGE).long()}


_INPUTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), _patches),
    "qwen2_5_omni_thinker": _patches_and_sound,
    "llava": _image,
    "vipllava": _image,
    "aya_vision": partial(_image, 1),
    "mistral3": _sized,
    "llava_next": _anyres,
    "llava_onevision": _anyres,
    "video_llava": _image_and_clip,
    **dict.fromkeys(("paligemma", "gemma3"), _gemma),
    "internvl": partial(_image, 1),
    **dict.fromkeys(("idefics3", "smolvlm"), partial(_image, 1, (1, 1))),
    "mllama": _tile,
    "qwen2_audio": _sound,
}
