"""Roles, names and ties of families that nobody declared are those of their classes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from optmerge.architectures import Role, Way, _meta_model, resolve
from optmerge.architectures._from_class import ClassArchitecture, ModelClass, _model, read_class
from optmerge.architectures._meta_model import meta_model
from optmerge.architectures._modules import roles
from worlds import model_types, samples
from worlds.models import TINY
from worlds.saved import Saved

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SPEECH = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
SPARSE = {"num_local_experts": 3, "num_experts_per_tok": 2}
DEEPSEEK = {
    **TEXT,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "whisper": {**SPEECH, "vocab_size": 96, "pad_token_id": 0, "num_mel_bins": 8},
    "speech_to_text": {**SPEECH, "vocab_size": 96, "pad_token_id": 0},
    "t5": {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
    "bert": {key: value for key, value in TEXT.items() if key not in ("head_dim", "num_key_value_heads")},
    "gpt_oss": {**TEXT, **SPARSE, "intermediate_size": 32},  # square, so that no shape tells
    "deepseek_v3": DEEPSEEK,
    "jetmoe": {**TEXT, **SPARSE, "kv_channels": 8},
    "voxtral": {
        "audio_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "num_mel_bins": 8},
        "text_config": {"model_type": "llama", **TEXT},
    },
    "blip-2": {
        "vision_config": VISION,
        "qformer_config": {**VISION, "encoder_hidden_size": 16, "vocab_size": 96},
        "text_config": {"model_type": "opt", "vocab_size": 96, "hidden_size": 32, "ffn_dim": 48}
        | {"num_hidden_layers": 1, "num_attention_heads": 4, "word_embed_proj_dim": 32},
    },
    "florence2": {
        "vision_config": {"embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2], "depths": [1, 1]}
        | {
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
        }
        | {"projection_dim": 32},
        "text_config": {"model_type": "bart", "vocab_size": 96, **SPEECH, "d_model": 32},
    },
    "gemma3n_text": {**TEXT, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8}
    | {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]}
    | {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 4},
}

MERGED: dict[str, tuple[int, str]] = {
    "whisper": (10, r"model.decoder.layers."),
    "speech_to_text": (10, r"model.decoder.layers."),
    "t5": (16, r""),
    "bert": (15, r""),
    "gpt_oss": (12, r"model.layers."),
    "deepseek_v3": (18, r"model.layers."),
    "jetmoe": (10, r"model.layers."),
    "voxtral": (14, r"model.language_model.layers."),
    "blip-2": (6, r"language_model.model.decoder.layers."),
    "florence2": (16, r"model.language_model."),
    "gemma3n_text": (35, r"model."),
}
"""How many tensors the default selection merges, and where all of them lie."""


def config_of(kind: str) -> dict[str, Any]:
    return json.loads(json.dumps({"model_type": kind, **CONFIGS[kind]}))


def class_of(kind: str) -> ModelClass:
    found = _model(json.dumps(config_of(kind), sort_keys=True))
    assert isinstance(found, ModelClass), found
    return found


@dataclass(frozen=True)
class Written:
    """A model whose every parameter holds a number of its own, and what save_pretrained made of it."""

    config: dict[str, Any]
    on_disk: dict[str, Tensor]
    numbers: dict[str, set[float]]
    ties: dict[str, str]


def write(kind: str, folder: Path) -> Written:
    config = AutoConfig.for_model(**config_of(kind))
    model = getattr(transformers, class_of(kind).name)(config)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number)
    model.save_pretrained(folder)
    state = model.state_dict()
    return Written(
        config=json.loads((folder / "config.json").read_text()),
        on_disk=load_file(folder / "model.safetensors"),
        numbers={name: {float(value) for value in tensor.unique()} for name, tensor in state.items()},
        ties=dict(model.all_tied_weights_keys),
    )


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_default_selection_is_the_language_models_matrices(kind: str) -> None:
    found = class_of(kind)
    count, place = MERGED[kind]
    merged = [n for n, role in found.roles.items() if (role.component, role.kind) == ("language", "matrix")]
    assert all(name.startswith(place) for name in merged)
    assert len(merged) == count
    assert not any("embed_tokens" in name or name.endswith("lm_head.weight") for name in merged)


@pytest.fixture(scope="module", params=samples.sample(sorted(CONFIGS), 4))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(request.param, tmp_path_factory.mktemp(request.param.replace("-", "_")))


@pytest.mark.sampled
def test_a_tensor_on_disk_is_the_parameter_that_holds_its_values(written: Written) -> None:
    family = resolve(written.config, written.on_disk)
    assert family.way is Way.CLASS
    for name, tensor in written.on_disk.items():
        assert isinstance(family, ClassArchitecture)
        trace = family.traces[name]
        assert trace.parameter is not None
        numbers = {float(value) for value in tensor.unique()}
        assert numbers == written.numbers[trace.parameter]


@pytest.mark.sampled
def test_names_in_memory_are_canonical(written: Written) -> None:
    family = resolve(written.config, written.on_disk)
    assert [name for name in written.numbers if family.canonical(name) != name] == []


@pytest.mark.sampled
def test_no_two_tensors_on_disk_share_a_canonical_name_of_the_class(written: Written) -> None:
    family = resolve(written.config, written.on_disk)
    assert len({family.canonical(name) for name in written.on_disk}) == len(written.on_disk)


@pytest.mark.sampled
def test_ties_are_those_of_the_class(written: Written) -> None:
    family = resolve(written.config, written.on_disk)
    assert dict(family.tied(written.config)) == written.ties


@pytest.mark.sampled
@pytest.mark.parametrize("saved", samples.sample(sorted(TINY), 8), indirect=True)
def test_a_declared_family_agrees_with_its_class(saved: Saved) -> None:
    declared, read = saved.architecture, read_class(saved.config, saved.on_disk)
    assert isinstance(read, ClassArchitecture)
    for name, shape in saved.on_disk.items():
        assert (name, read.role(name, shape)) == (name, declared.role(name, shape))
        if not (saved.config["model_type"] == "mixtral" and ".experts." in name):  # w1, w2, w3 in its files
            assert read.canonical(name) == declared.canonical(name)
    assert set(read.tied(saved.config)) == set(declared.tied(saved.config))


def test_square_experts_are_transposed_where_the_class_multiplies_from_the_right() -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    family = read_class(config_of("gpt_oss"), [name])
    assert isinstance(family, ClassArchitecture)
    assert family.role(name, (3, 32, 32)) == Role("language", "matrix", transposed=True)


def test_raw_weights_of_heads_and_convolutions_are_told_by_their_class() -> None:
    assert roles(model_types.build("csm"))["depth_decoder.codebooks_head.weight"].kind == "head"
    phi = roles(model_types.build("phi4_multimodal"))
    assert phi["model.embed_tokens_extend.audio_embed.encoder.encoders.0.conv.glu.b1"].kind == "other"
    assert roles(model_types.build("siglip2"))["vision_model.head.probe"].kind == "other"
    talker = roles(model_types.build("qwen3_omni_moe"))
    assert talker["talker.code_predictor.lm_head.0.weight"].kind == "head"


def test_queries_and_tables_per_layer_are_no_matrices() -> None:
    assert class_of("blip-2").roles["query_tokens"] == Role("projector", "other")
    assert class_of("gemma3n_text").roles["model.embed_tokens_per_layer.weight"] == Role(
        "language", "embedding"
    )


SOUND: dict[str, tuple[str, str]] = {
    "dia": (r"model\.encoder\.", r"model\.decoder\.|logits_dense\."),
    "musicgen": (r"text_encoder\.", r"decoder\."),
    "musicgen_melody": (r"text_encoder\.", r"decoder\."),
    "pop2piano": (r"shared\.", r"(decoder|lm_head|mel_conditioner)\."),
}
"""What of a model that makes sound alone reads text, and what makes sound."""


@pytest.mark.parametrize("kind", sorted(SOUND))
def test_what_makes_sound_is_no_language_model(kind: str) -> None:
    text, sound = SOUND[kind]
    found = roles(meta_model({"model_type": kind}))
    assert {role.component for name, role in found.items() if re.match(sound, name)} == {"other"}
    assert {role.component for name, role in found.items() if re.match(text, name)} <= {"language"}


def test_a_tower_within_a_tower_ends_in_no_projector() -> None:
    found = roles(model_types.build("deepseek_ocr2"))
    inner = {role.component for name, role in found.items() if "sam_encoder.proj." in name}
    assert inner == {"vision"}
    outer = roles(model_types.build("muse_spark"))
    assert outer["model.audio_tower.proj.weight"].component == "projector"


def test_patches_of_an_image_are_vision_within_a_model_of_text() -> None:
    found = roles(model_types.build("udop"))
    assert found["encoder.embed_patches.proj.weight"] == Role("vision", "conv")
    assert found["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == Role("language", "matrix")


@pytest.mark.parametrize(
    ("kind", "right", "left"),
    [
        ("dbrx", r"\.ffn\.experts\.mlp\.w2$", r"\.ffn\.experts\.mlp\.[vw]1$"),
        ("t5gemma2", r"mm_input_projection_weight$", r"mm_input_projection\.weight$"),
    ],
)
def test_what_multiplies_from_the_right_is_transposed(kind: str, right: str, left: str) -> None:
    found = roles(model_types.build(kind))
    assert {role.transposed for name, role in found.items() if re.search(right, name)} == {True}
    assert not any(role.transposed for name, role in found.items() if re.search(left, name))


def test_a_router_is_a_kind_of_its_own() -> None:
    assert class_of("gpt_oss").roles["model.layers.0.mlp.router.weight"] == Role("language", "router")
    assert class_of("deepseek_v3").roles["model.layers.1.mlp.gate.weight"] == Role("language", "router")
    # Nothing beside JetMoE's router has experts in its name.
    assert class_of("jetmoe").roles["model.layers.0.mlp.router.layer.weight"] == Role("language", "router")


def test_an_adapters_names_and_a_files_of_transformers_4_meet() -> None:
    old, new = (
        "language_model.model.layers.0.mlp.up_proj.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
    )
    family = read_class(config_of("voxtral"), [old])
    assert isinstance(family, ClassArchitecture)
    assert family.canonical(old) == family.canonical(new) == new


def test_what_a_class_joins_keeps_its_own_name() -> None:
    expert = "model.layers.1.mlp.experts.2.up_proj.weight"
    family = read_class(config_of("deepseek_v3"), [expert])
    assert isinstance(family, ClassArchitecture)
    assert family.canonical(expert) == expert
    assert family.role(expert, (20, 32)) == Role("language", "matrix")


LAYER = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "frobnicator"}, r"has no model type 'frobnicator'"),
        ({"model_type": None}, r"has no model type"),
        ({"model_type": ["llama"]}, r"has no model type"),
        ({"model_type": "gpt_oss", "num_hidden_layers": "many"}, r"can't be built from its config \(.*Error"),
        ({"model_type": "gpt_oss", "num_hidden_layers": -1, "head_dim": {}}, r"can't be built"),
        ({"model_type": "voxtral", "text_config": {"model_type": "frobnicator"}}, r"can't be built"),
        ({"model_type": "gpt_oss", "architectures": ["os"], "hidden_size": None}, r"can't be built"),
        ({"model_type": "fast_vlm"}, r"can't be built.*timm"),
        ({"model_type": "bert"}, r"BertForPreTraining has no place for 1 of its 1 tensors"),
    ],
    ids=lambda each: None if isinstance(each, str) else str(each)[:60],
)
def test_a_class_that_cannot_be_read_leads_to_the_names_and_says_why(
    config: dict[str, Any], reason: str
) -> None:
    family = resolve(config, [LAYER])
    assert family.way is Way.NAMES
    assert re.search(reason, family.reason)
    assert family.role(LAYER, (4, 4)) == Role("language", "matrix")


def test_an_infinity_in_a_config_is_read() -> None:
    sizes = {"num_heads": 8, "head_dim": 8, "hidden_size": 32, "num_hidden_layers": 1, "n_groups": 1}
    written = json.loads(AutoConfig.for_model("mamba2", **sizes).to_json_string(use_diff=False))
    assert written["time_step_limit"][1] == {"__float__": "Infinity"}  # what transformers 5 writes
    assert isinstance(read_class(written, []), ClassArchitecture)


def test_a_config_may_not_ask_for_a_model_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_meta_model, "MOST_MODULES", 1000)
    assert "more than" in str(read_class({**config_of("t5"), "num_layers": 10**9}, [LAYER]))


def test_remote_code_is_not_asked_for(tmp_path: Path) -> None:
    remote = {"AutoConfig": f"{tmp_path}--code.Config", "AutoModel": f"{tmp_path}--code.Model"}
    config = {**config_of("voxtral"), "auto_map": remote}
    config["text_config"] = {**config["text_config"], "auto_map": remote}
    assert isinstance(read_class(config, ["model.language_model.norm.weight"]), ClassArchitecture)


def test_tensors_without_a_place_in_the_class_are_named_and_guessed() -> None:
    names = [LAYER, "model.layers.0.self_attn.k_proj.weight", "model.layers.9.eh_proj.weight"]
    family = read_class(config_of("gpt_oss"), names)
    assert isinstance(family, ClassArchitecture)
    assert family.strangers(names) == ("model.layers.9.eh_proj.weight",)
    assert family.role("model.layers.9.eh_proj.weight", (4, 4)) == Role("language", "matrix")


def test_an_infinity_in_a_config_is_read_as_transformers_writes_it() -> None:
    limit = [0.0, {"__float__": "Infinity"}]
    config = {"model_type": "mamba2", "num_hidden_layers": 1, "time_step_limit": limit}
    assert isinstance(read_class(config, ["backbone.layers.0.mixer.in_proj.weight"]), ClassArchitecture)
