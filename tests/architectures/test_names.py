"""Canonical names are those of transformers 5 in memory, whatever wrote the file."""

from __future__ import annotations

import re

import pytest
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from optmerge.architectures import Role, registered, resolve
from worlds.models import TINY, build
from worlds.saved import Saved

# Old name, canonical name. The first column is what transformers 4 wrote at some time.
OLD_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "qwen2_vl": (
        ("visual.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight"),
        ("visual.blocks.1.attn.qkv.bias", "model.visual.blocks.1.attn.qkv.bias"),
        ("visual.merger.ln_q.weight", "model.visual.merger.ln_q.weight"),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("model.layers.0.self_attn.q_proj.bias", "model.language_model.layers.0.self_attn.q_proj.bias"),
        ("model.norm.weight", "model.language_model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
        (
            "model.language_model.layers.1.mlp.up_proj.weight",
            "model.language_model.layers.1.mlp.up_proj.weight",
        ),
    ),
    "qwen2_5_vl": (
        ("visual.blocks.0.mlp.gate_proj.weight", "model.visual.blocks.0.mlp.gate_proj.weight"),
        ("visual.merger.mlp.2.weight", "model.visual.merger.mlp.2.weight"),
        ("model.layers.1.mlp.down_proj.weight", "model.language_model.layers.1.mlp.down_proj.weight"),
        ("model.visual.blocks.1.norm2.weight", "model.visual.blocks.1.norm2.weight"),
    ),
    "qwen2_5_omni_thinker": (
        ("thinker.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("thinker.visual.blocks.0.attn.q.weight", "model.visual.blocks.0.attn.q.weight"),
        ("thinker.audio_tower.layers.0.fc1.weight", "model.audio_tower.layers.0.fc1.weight"),
        ("thinker.lm_head.weight", "lm_head.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
    ),
    **dict.fromkeys(
        ("llava", "llava_next", "llava_onevision", "vipllava", "aya_vision", "paligemma", "gemma3"),
        (
            ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
            (
                "language_model.model.layers.1.self_attn.k_proj.weight",
                "model.language_model.layers.1.self_attn.k_proj.weight",
            ),
            ("language_model.model.norm.weight", "model.language_model.norm.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            (
                "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
                "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
            ),
            (
                "model.vision_tower.vision_model.embeddings.patch_embedding.weight",
                "model.vision_tower.embeddings.patch_embedding.weight",
            ),
            (
                "model.language_model.layers.0.mlp.up_proj.weight",
                "model.language_model.layers.0.mlp.up_proj.weight",
            ),
        ),
    ),
    "mistral3": (
        ("language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        (
            "vision_tower.transformer.layers.0.attention.q_proj.weight",
            "model.vision_tower.transformer.layers.0.attention.q_proj.weight",
        ),
        (
            "multi_modal_projector.patch_merger.merging_layer.weight",
            "model.multi_modal_projector.patch_merger.merging_layer.weight",
        ),
    ),
    "internvl": (
        (
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("vision_tower.encoder.layer.1.lambda_1", "model.vision_tower.encoder.layer.1.lambda_1"),
        ("multi_modal_projector.layer_norm.weight", "model.multi_modal_projector.layer_norm.weight"),
    ),
    "video_llava": (
        (
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        (
            "image_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "model.image_tower.encoder.layers.0.mlp.fc1.weight",
        ),
        (
            "video_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "model.video_tower.encoder.layers.0.mlp.fc1.weight",
        ),
        ("multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.weight"),
    ),
    "mllama": (
        (
            "language_model.model.layers.1.cross_attn.q_proj.weight",
            "model.language_model.layers.1.cross_attn.q_proj.weight",
        ),
        (
            "language_model.model.layers.1.cross_attn_attn_gate",
            "model.language_model.layers.1.cross_attn_attn_gate",
        ),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("vision_model.class_embedding", "model.vision_model.class_embedding"),
        (
            "vision_model.gated_positional_embedding.tile_embedding.weight",
            "model.vision_model.gated_positional_embedding.tile_embedding.weight",
        ),
        ("multi_modal_projector.weight", "model.multi_modal_projector.weight"),
    ),
    "qwen2_audio": (
        (
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("audio_tower.layers.0.fc1.weight", "model.audio_tower.layers.0.fc1.weight"),
        ("multi_modal_projector.linear.weight", "model.multi_modal_projector.linear.weight"),
    ),
    "mixtral": (
        ("model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.gate.weight"),
        (
            "model.layers.0.block_sparse_moe.experts.2.w1.weight",
            "model.layers.0.mlp.experts.2.gate_proj.weight",
        ),
        (
            "model.layers.0.block_sparse_moe.experts.2.w2.weight",
            "model.layers.0.mlp.experts.2.down_proj.weight",
        ),
        (
            "model.layers.0.block_sparse_moe.experts.2.w3.weight",
            "model.layers.0.mlp.experts.2.up_proj.weight",
        ),
    ),
    **dict.fromkeys(
        ("qwen2_moe", "qwen3_moe"),
        (
            (
                "model.layers.1.mlp.experts.0.up_proj.weight",
                "model.layers.1.mlp.experts.0.up_proj.weight",
            ),
            ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"),
        ),
    ),
}

OLD = [(family, old, new) for family, pairs in OLD_NAMES.items() for old, new in pairs]

HEADLESS = [
    ("qwen2", "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
    ("gemma", "embed_tokens.weight", "model.embed_tokens.weight"),
    ("gpt2", "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
    ("qwen2_vl", "language_model.norm.weight", "model.language_model.norm.weight"),
    ("qwen3_vl", "visual.pos_embed.weight", "model.visual.pos_embed.weight"),
    (
        "llava",
        "language_model.layers.0.mlp.up_proj.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
    ),
    ("smolvlm", "text_model.norm.weight", "model.text_model.norm.weight"),
]


def stacked(name: str) -> str:
    """The parameter of transformers 5 in which an expert ends."""
    name = re.sub(r"(\.experts)\.\d+\.(gate|up)_proj\.weight$", r"\1.gate_up_proj", name)
    return re.sub(r"(\.experts)\.\d+\.down_proj\.weight$", r"\1.down_proj", name)


def test_what_save_pretrained_writes_maps_onto_the_parameters(saved: Saved) -> None:
    reached = {stacked(saved.architecture.canonical(name)) for name in saved.on_disk}
    aliases = {alias for alias, _ in saved.architecture.tied(saved.config)}
    assert reached | aliases == set(saved.in_memory)


def test_no_two_tensors_on_disk_share_a_canonical_name(saved: Saved) -> None:
    canonical = [saved.architecture.canonical(name) for name in saved.on_disk]
    assert len(set(canonical)) == len(canonical)


def test_canonical_names_are_their_own(saved: Saved) -> None:
    for name in saved.in_memory:
        assert saved.architecture.canonical(name) == name


@pytest.mark.parametrize(("family", "old", "new"), [*OLD, *HEADLESS])
def test_an_old_name_maps_onto_a_parameter(family: str, old: str, new: str) -> None:
    architecture = registered()[family]
    assert architecture.canonical(old) == new
    assert architecture.canonical(new) == new
    assert stacked(new) in build(family).state_dict() or new == "lm_head.weight"


@pytest.mark.parametrize(("family", "old", "new"), OLD)
def test_transformers_itself_reads_the_old_name_this_way(family: str, old: str, new: str) -> None:
    model = build(family)
    mapping = get_model_conversion_mapping(model)
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    renamings = [each for each in mapping if not isinstance(each, WeightConverter)]
    read, _ = rename_source_key(old, renamings, converters, model.base_model_prefix, model.state_dict())
    assert read == stacked(new)


REMOTE_INTERNVL = {
    "language_model.model.embed_tokens.weight": ((96, 32), Role("language", "embedding")),
    "language_model.model.layers.0.mlp.down_proj.weight": ((32, 48), Role("language", "matrix")),
    "language_model.model.layers.0.input_layernorm.weight": ((32,), Role("language", "norm")),
    "language_model.model.layers.0.self_attn.q_proj.bias": ((32,), Role("language", "bias")),
    "language_model.model.norm.weight": ((32,), Role("language", "norm")),
    "language_model.lm_head.weight": ((96, 32), Role("language", "head")),
    "vision_model.embeddings.class_embedding": ((1, 1, 16), Role("vision", "other")),
    "vision_model.embeddings.position_embedding": ((1, 5, 16), Role("vision", "embedding")),
    "vision_model.embeddings.patch_embedding.weight": ((16, 3, 4, 4), Role("vision", "conv")),
    "vision_model.embeddings.patch_embedding.bias": ((16,), Role("vision", "bias")),
    "vision_model.encoder.layers.0.attn.qkv.weight": ((48, 16), Role("vision", "matrix")),
    "vision_model.encoder.layers.0.attn.q_norm.weight": ((16,), Role("vision", "norm")),
    "vision_model.encoder.layers.0.attn.proj.bias": ((16,), Role("vision", "bias")),
    "vision_model.encoder.layers.0.mlp.fc1.weight": ((24, 16), Role("vision", "matrix")),
    "vision_model.encoder.layers.0.norm1.bias": ((16,), Role("vision", "bias")),
    "vision_model.encoder.layers.0.ls1": ((16,), Role("vision", "other")),
    "mlp1.0.weight": ((64,), Role("projector", "norm")),
    "mlp1.0.bias": ((64,), Role("projector", "bias")),
    "mlp1.1.weight": ((32, 64), Role("projector", "matrix")),
    "mlp1.3.weight": ((32, 32), Role("projector", "matrix")),
    "language_model.model.tok_embeddings.weight": ((96, 32), Role("language", "embedding")),
    "language_model.model.layers.0.attention.wqkv.weight": ((64, 32), Role("language", "matrix")),
    "language_model.model.layers.0.feed_forward.w2.weight": ((32, 48), Role("language", "matrix")),
    "language_model.output.weight": ((96, 32), Role("language", "head")),
}


@pytest.mark.parametrize(
    "config", [{"model_type": "internvl_chat"}, {"architectures": ["InternVLChatModel"]}]
)
def test_internvl_with_its_own_code_keeps_its_names(config: dict[str, object]) -> None:
    architecture = resolve(config, REMOTE_INTERNVL)
    assert architecture.name == "internvl_chat"
    assert not architecture.generic
    for name, (shape, role) in REMOTE_INTERNVL.items():
        assert architecture.canonical(name) == name
        assert (name, architecture.role(name, shape)) == (name, role)


def test_every_tiny_family_with_old_names_is_in_the_table() -> None:
    renamed = {name for name in TINY if get_model_conversion_mapping(build(name), add_legacy=False)}
    assert renamed - {"qwen3_vl_moe"} <= set(OLD_NAMES)  # which changes only the orientation
