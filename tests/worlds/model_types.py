"""A tiny random model of every model type that transformers declares, from its default config, shrunk.

`IMAGE_TEXT`, `AUDIO`, `ENCODERS` and `TEXT` name the types, `shrunk(name)` gives a config, `build(name)` a
model. What differs between types is what transformers' own defaults say; `REPAIRS` holds what the general
rules can't know: sizes that must divide one another, and values that published configs fill in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_DIM, INTERMEDIATE = 32, 4, 2, 8, 48
VOCABULARY, LAYERS, EXPERTS, EXPERTS_PER_TOKEN, SIDE, PATCH = 256, 2, 6, 2, 16, 4

IMAGE_TEXT = tuple(sorted(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
"""Every type of transformers' image-text-to-text mapping."""

AUDIO = tuple(
    sorted(
        {
            *set(modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES) - set(IMAGE_TEXT),
            *("audioflamingo3", "canary", "clap", "cohere_asr", "csm", "dia", "higgs_audio_v2", "moonshine"),
            *("moshi", "musicflamingo", "musicgen", "seamless_m4t_v2", "speech_to_text", "vibevoice"),
            *("wav2vec2", "whisper"),
        }
    )
)
"""Every other type that takes or gives sound beside text."""

ENCODERS = (
    *("altclip", "bridgetower", "chinese_clip", "clip", "colpali", "dinov2", "flava", "metaclip_2"),
    *("siglip", "siglip2", "vilt", "vit"),
)
"""Pairs of encoders, and encoders alone."""

TEXT = (
    *("apertus", "arcee", "bamba", "bart", "bert", "bitnet", "bloom", "cohere", "cohere2", "dbrx"),
    *("deberta-v2", "deepseek_v2", "deepseek_v3", "diffllama", "distilbert", "dots1", "electra", "ernie4_5"),
    *("ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "falcon_mamba", "gemma", "gemma2", "gemma3_text"),
    *("gemma3n_text", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2", "gpt_bigcode"),
    *("gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid"),
    *("granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "jetmoe", "lfm2"),
    *("lfm2_moe", "llama", "llama4_text", "longcat_flash", "mamba", "mamba2", "mbart", "minimax"),
    *("minimax_m2", "mistral", "mixtral", "modernbert", "mpt", "mt5", "nemotron", "nemotron_h", "olmo"),
    *("olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "recurrent_gemma", "roberta", "rwkv"),
    *("seed_oss", "smollm3", "stablelm", "starcoder2", "t5", "t5gemma", "xglm", "xlm-roberta", "zamba2"),
)
"""Language models in wide use."""

TYPES = tuple(dict.fromkeys((*IMAGE_TEXT, *AUDIO, *ENCODERS, *TEXT)))

_CLASSES: tuple[Mapping[str, Any], ...] = (
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_RETRIEVAL_MAPPING_NAMES,
    modeling_auto.MODEL_MAPPING_NAMES,
)

Values = dict[str, Any]

_LAYERS = r"(^|_)(num_.*layers?|n_layers?|layers|depth|num_blocks?|num_hidden_blocks)$"

# (pattern of a config's key, value); the first match wins. Only whole numbers change.
_SIZES = tuple(
    (re.compile(pattern), size)
    for pattern, size in (
        (r"(kv|key_value)_heads|kv_n_heads|num_query_groups", KEY_VALUE_HEADS),
        (r"first_k_dense_replace|decoder_sparse_step|moe_layer_(freq|interval)|expert_layer_period", 1),
        (r"attn_layer_period", 2),
        (r"(offset|n_group|topk_group|num_shared_experts|n_shared_experts|mamba_n_groups|n_groups)$", 1),
        (r"(experts_per_tok(en)?|top_?k(_experts)?|moe_k|moe_topk|router_topk)$", EXPERTS_PER_TOKEN),
        (r"(num(_local|_routed)?_experts|n_routed_experts|moe_num_experts)$", EXPERTS),
        (r"head_(dim|size)$|_head_dims?$|^d_kv$|rope_dim", HEAD_DIM),
        (r"(^|_)(n_heads?|heads|num_heads?|attention_heads?)$", HEADS),
        (
            r"(intermediate|ffn|mlp)_?(size|dim|hidden_size)$|(ffn|feed_forward)_dim$|^d_ff$|n_inner",
            INTERMEDIATE,
        ),
        (_LAYERS, LAYERS),
        (r"(hidden|embed|embedding|model|projection|d)_?(size|dim|width)s?$|^(d_model|n_embd|dim)$", HIDDEN),
        (r"(vocab|vocabulary)_size", VOCABULARY),
        (r"_lora_rank$|_rank$", 16),
        (r"image_size$|^img_size", SIDE),
        (r"(^|_)patch_size$", PATCH),
        (r"max_.*(positions?|length|_len)(_embeddings)?$|^n_(positions|ctx)$", 64),
    )
)


def shrunk(name: str) -> PreTrainedConfig:
    """The type's default config with small sizes."""
    kind = CONFIG_MAPPING[name]
    values = smaller(kind().to_dict())
    merged_into(values, REPAIRS.get(name, {}))
    return kind.from_dict(values)


def smaller(values: Values) -> Values:
    """A config's values with small sizes, nested configs included."""
    small = {key: _smaller(str(key), value) for key, value in values.items()}
    for key in [key for key in small if str(key).endswith("num_key_value_heads")]:
        queries = values.get(key.replace("key_value", "attention"))
        small[key] = HEADS if values[key] == queries else KEY_VALUE_HEADS
    if "head_dim" in small and not small["head_dim"] and "num_attention_heads" in small:
        small["head_dim"] = values["head_dim"] if values["head_dim"] == 0 else HEAD_DIM
    if "mrope_section" in small:
        small["mrope_section"] = [1, 1, 2]
    _fewer_layers(small, values)
    return small


def _smaller(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return smaller(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if key.endswith(("_id", "_token_index", "_token")):
        return value % VOCABULARY
    sizes = (size for pattern, size in _SIZES if pattern.search(key))
    return min(value, next(sizes, value)) if value > 0 else value


def _fewer_layers(small: Values, values: Values) -> None:
    """Lists with one entry per layer keep one layer of each kind, two at least and six at most."""
    counts = {
        key: value
        for key, value in values.items()
        if isinstance(value, int) and value > LAYERS and re.search(_LAYERS, str(key))
    }
    lists = {
        key: value
        for key, value in values.items()
        if isinstance(value, list) and len(value) in counts.values()
    }
    if not lists:
        return
    length = max(len(value) for value in lists.values())
    lists = {key: value for key, value in lists.items() if len(value) == length}
    rows = list(zip(*lists.values(), strict=True))
    kept = sorted({repr(row): place for place, row in reversed(list(enumerate(rows)))}.values())
    kept = (kept if len(kept) > 1 else [0, 1])[:6]
    small.update({key: [value[place] for place in kept] for key, value in lists.items()})
    small.update({key: len(kept) for key, count in counts.items() if count == length})
    if exceptions := values.get("per_layer_config"):
        given = {int(place): each for place, each in exceptions.items()}
        small["per_layer_config"] = {
            str(now): smaller(given[place]) for now, place in enumerate(kept) if place in given
        }


def merged_into(values: Values, changes: Mapping[str, Any]) -> None:
    """Nested update, in place; a nested config that is missing starts as its type's default."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and not isinstance(values.get(key), dict) and "model_type" in value:
            values[key] = smaller(CONFIG_MAPPING[value["model_type"]]().to_dict())
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            merged_into(values[key], value)
        else:
            values[key] = value


_QSA = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
_MIMI = {
    "upsample_groups": 32,
    "num_filters": 8,
    "codebook_dim": 32,
    "vector_quantization_hidden_dimension": 32,
    "codebook_size": 32,
    "num_quantizers": 4,
}
_VIBEVOICE = {"num_filters": 2, "downsampling_ratios": [2, 2], "depths": [1, 1, 1]}
_VOCABULARY_MAP = {"<image>": 8, **{f"IMGIMG{chr(65 + i)}Z": 10 + i for i in range(4)}}
_VQ: Values = {
    "base_channels": 32,
    "latent_channels": 32,
    "embed_dim": 32,
    "num_embeddings": 16,
    "channel_multiplier": [1, 1],
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}

REPAIRS: dict[str, Values] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "bridgetower": {"vision_config": {"hidden_size": 64}},
    "chameleon": {"vocabulary_map": _VOCABULARY_MAP, "vq_config": _VQ},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": {**_ROPE, "mrope_section": [1, 1, 2]}}}
    },
    "diffusion_gemma": {"text_config": {"num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24}},
    "deepseek_vl_hybrid": {"high_res_vision_config": {"output_channels": 32}},
    "dots3_note": {
        "text_config": {"head_dim": 16, "per_layer_config": {}},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "csm": {"codec_config": _MIMI, "num_codebooks": 4, "depth_decoder_config": {"num_codebooks": 4}},
    "dbrx": {"attn_config": {"rope_theta": 1e4}, "ffn_config": {"moe_num_experts": 6}},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
        "vision_config": {"sam_config": {"output_channels": 32, "downsample_channels": [32, 32]}},
    },
    "dinov2": {"stage_names": None, "out_features": None, "out_indices": None},
    "dots1": {
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "emu3": {"vq_config": _VQ, "vocabulary_map": {"<image>": 8, "<|extra_200|>": 9}},
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": {"mrope_section": [1, 1, 2]}, "moe_intermediate_size": [24, 16]}
    },
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "mamba_expand": 2},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "florence2": {
        "vision_config": {
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "depths": [1, 1, 1, 1],
        }
    },
    "gemma4": {
        "vision_config": {"model_type": "gemma4_vision"},
        "audio_config": {"model_type": "gemma4_audio"},
    },
    "gemma4_unified": {
        "vision_config": {"model_type": "gemma4_unified_vision"},
        "audio_config": {"model_type": "gemma4_unified_audio"},
    },
    "gemma3n_text": {"intermediate_size": 48},
    "glm5_next": {"text_config": {"index_topk": 16}},
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
        "vision_config": {"hidden_size": 64},
        "qformer_config": {"num_attention_heads": 4},
    },
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2},
    "janus": {"vq_config": _VQ},
    "llama4": {
        "vision_config": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        "text_config": {"intermediate_size_mlp": 48},
    },
    "muse_spark": {"audio_config": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}},
    "musicgen": {"audio_encoder": {"num_filters": 4, "codebook_dim": 32, "codebook_size": 32}},
    "nemotron_h_omni": {"vision_config": {"max_img_size": 64, "max_resolution": 64}},
    "recurrent_gemma": {"lru_width": 32},
    "hunyuan_v1_moe": {"num_experts": 6, "moe_topk": 2},
    "jamba": {
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "kyutai_speech_to_text": {"codec_config": _MIMI},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "nemotron": {"num_key_value_heads": 2},
    "inkling_mm_model": {"vision_config": {"n_layers": 8, "patch_size": 8}},
    "pp_formulanet": {
        "vision_config": {
            "output_channels": 32,
            "post_conv_in_channels": 32,
            "post_conv_out_channels": 32,
            "post_conv_mid_channels": 32,
        }
    },
    "unlimited_ocr": {
        "vision_config": {"sam_config": {"output_channels": 32, "downsample_channels": [32, 32]}}
    },
    "qwen2_5_omni": {
        "token2wav_config": {
            "dit_config": {
                "enc_channels": [16, 16, 16, 16, 32],
                "num_embeds": 32,
                "enc_dim": 16,
                "enc_emb_dim": 16,
                "enc_attention_channels": 8,
                "enc_se_channels": 8,
            },
            "bigvgan_config": {"upsample_initial_channel": 64},
        }
    },
    "qwen3_omni_moe": {
        "code2wav_config": {"decoder_dim": 32, "hidden_size": 32},
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 24}},
    },
    "qwen4_exp": {"text_config": _QSA},
    "vibevoice": {"audio_config": _VIBEVOICE, "semantic_model_config": _VIBEVOICE},
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config": _VIBEVOICE,
        "semantic_tokenizer_encoder_config": _VIBEVOICE,
    },
}


def class_of(name: str) -> type[PreTrainedModel]:
    """The class that a user would load the type with."""
    found = next(names[name] for names in _CLASSES if name in names)
    return getattr(transformers, found if isinstance(found, str) else found[0])


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model of a few MB at most."""
    torch.manual_seed(seed)
    return class_of(name)(shrunk(name)).float().eval()
