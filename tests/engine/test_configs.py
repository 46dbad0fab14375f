"""Configs that compute something else with the same weights are refused; two spellings of one are one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import optmerge
from optmerge.engine.planning.configs import differences
from optmerge.errors import CheckpointError
from worlds.merges import CONFIG, World, world
from worlds.models import TINY
from worlds.samples import sample


def keys(base: dict[str, Any], expert: dict[str, Any]) -> list[str]:
    return [each.key for each in differences(base, expert)]


def with_config(models: World, index: int, **changes: Any) -> World:
    file = models.experts[index] / "config.json"
    file.write_text(json.dumps({**CONFIG, **changes}))
    return models


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 3},
        {"num_key_value_heads": 1},
        {"rope_theta": 1e6},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_an_expert_that_computes_otherwise_is_refused_with_a_way_out(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    models = with_config(world(tmp_path), 1, **change)
    with pytest.raises(CheckpointError, match=r"e1.*computes otherwise") as refused:
        optmerge.plan(models.recipe())
    assert f"{{model: {models.experts[1]}, any_base: true}}" in str(refused.value.hint)

    allowed = [str(models.experts[0]), {"model": str(models.experts[1]), "any_base": True}]
    (told,) = (each for each in optmerge.plan(models.recipe(experts=allowed)).warnings if "config" in each)
    assert told.startswith("the config of e1 says ") and told.endswith(": the output has the base's config")


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-3},
        {"max_position_embeddings": 99},
        {"eos_token_id": 5},
        {"tie_word_embeddings": True},
        {"image_token_index": 7},
    ],
    ids=str,
)
def test_what_is_harmless_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    models = world(tmp_path, config={**CONFIG, "image_token_id": 8})
    file = models.experts[0] / "config.json"
    file.write_text(json.dumps({**CONFIG, "image_token_id": 8, **change}))
    if "image_token_index" in change:
        file.write_text(json.dumps({**CONFIG, **change}))
    if "tie_word_embeddings" in change:
        models.rewrite(
            0,
            lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
        )
    (told,) = (each for each in optmerge.plan(models.recipe()).warnings if "the config of" in each)

    assert told.startswith("the config of e0 says ")


@pytest.mark.parametrize(
    "change",
    [
        {"_name_or_path": "elsewhere", "transformers_version": "4.40.0", "torch_dtype": "bfloat16"},
        {"use_cache": False, "attention_dropout": 0.1, "initializer_range": 0.5, "pad_token_id": 3},
        {"num_key_value_heads": 2, "head_dim": 3, "rope_theta": 1e4, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}, "hidden_act": "silu"},
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "unsloth_version": "2025.1"},
    ],
    ids=str,
)
def test_what_says_nothing_and_what_is_the_default_is_no_difference(change: dict[str, Any]) -> None:
    assert keys(CONFIG, {**CONFIG, **change}) == keys({**CONFIG, **change}, CONFIG) == []


SPELLINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {
            "model_type": "qwen2_vl",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_size": 32,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "vision_config": {"depth": 2},
        },
        {
            "model_type": "qwen2_vl",
            "text_config": {
                "model_type": "qwen2_vl_text",
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "hidden_size": 32,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            },
            "vision_config": {"depth": 2},
        },
    ),
    (
        {"model_type": "nobodys", "rope_theta": 5e5, "rope_scaling": {"type": "su", "factor": 2.0}},
        {
            "model_type": "nobodys",
            "rope_parameters": {"rope_type": "longrope", "factor": 2.0, "rope_theta": 5e5},
        },
    ),
    (
        {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4},
        {
            "model_type": "gemma3_text",
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    (
        {"model_type": "llava", "image_token_index": 9, "text_config": {"model_type": "llama"}},
        {
            "model_type": "llava",
            "image_token_id": 9,
            "text_config": {"model_type": "llama", "rope_theta": 1e4},
        },
    ),
    (
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": None},
    ),
]


@pytest.mark.parametrize(("old", "new"), SPELLINGS, ids=lambda each: each["model_type"])
def test_the_spellings_of_transformers_4_and_5_are_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert keys(old, new) == keys(new, old) == []


@pytest.mark.sampled
@pytest.mark.parametrize("family", sample(sorted(TINY), 6))
def test_a_config_with_all_defaults_and_one_with_none_are_one(family: str) -> None:
    config = TINY[family]().config

    assert keys(config.to_diff_dict(), config.to_dict()) == []
    assert keys(json.loads(config.to_json_string()), json.loads(config.to_json_string(use_diff=False))) == []


def test_a_config_that_no_class_understands_is_compared_where_both_speak() -> None:
    base = {"model_type": "nobodys", "num_attention_heads": 4, "rms_norm_eps": 1e-6}

    assert keys(base, {"model_type": "nobodys", "rope_theta": 1e6, "num_attention_heads": 4}) == []
    assert keys(base, {**base, "num_attention_heads": 8, "rms_norm_eps": 1e-5}) == [
        "num_attention_heads",
        "rms_norm_eps",
    ]


@pytest.mark.parametrize(
    "value", [[], {}, "x", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}, -1, 1e400]
)
@pytest.mark.parametrize(
    "key", ["rope_scaling", "rope_theta", "text_config", "vision_config", "num_attention_heads"]
)
def test_strange_configs_break_nothing(key: str, value: Any) -> None:
    differences({"model_type": "llama"}, {"model_type": "llama", key: value})
    differences({"model_type": "llama", key: value}, {"model_type": "llama", "rope_theta": 3})


def test_declared_models_of_one_config_are_planned_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers.models.auto.configuration_auto", None)
    models = with_config(world(tmp_path), 0, _name_or_path="elsewhere", dtype="bfloat16")

    assert not any("config" in each for each in optmerge.plan(models.recipe()).warnings)
