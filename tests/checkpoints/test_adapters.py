"""Adapters against PEFT itself: the deltas are what merge_and_unload changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from optmerge.checkpoints.adapters import open_adapter
from optmerge.deltas import Dense, LowRank
from optmerge.errors import AdapterError
from worlds.models import TINY

pytestmark = pytest.mark.filterwarnings("ignore")


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=2, vocab_size=48, n_positions=16))


class Convolutions(nn.Module):
    """1-D, 2-D and 3-D convolutions, with and without a 1×1 kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 5, 3)
        self.plane = nn.Conv2d(5, 6, (3, 2))
        self.point = nn.Conv2d(6, 7, 1)
        self.space = nn.Conv3d(3, 4, (2, 3, 1))


def trained(model: nn.Module, settings: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Save an adapter whose every trainable parameter has moved; returns the merged state dict."""
    model = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(**{"r": 4, "lora_alpha": 7, **settings})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    return model.merge_and_unload().state_dict()


def assert_exact(model: nn.Module, settings: dict[str, Any], folder: Path) -> dict[str, type]:
    """Compare every tensor with PEFT's merge; returns the types of the deltas by target."""
    merged = trained(model, settings, folder)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapter = open_adapter(folder)
    adapter.check_shapes({name: tuple(base[name].shape) for name in adapter.targets})
    kinds = {}
    for name, before in base.items():
        if name not in adapter.targets:
            assert torch.equal(before, merged[name]) or name.endswith("lm_head.weight"), (
                name
            )  # tied to a target
            continue
        delta = adapter.delta(name, lambda before=before: before, tuple(before.shape))
        kinds[name] = type(delta)
        assert delta.shape == tuple(before.shape) and delta.dtype == torch.float32
        torch.testing.assert_close(before + delta.dense(), merged[name], rtol=1e-6, atol=1e-6)
        change = merged[name] - before
        assert (delta.dense() - change).norm() <= 1e-6 * (change.norm() + before.norm()), name
    assert kinds
    return kinds


LANGUAGE = r".*language_model.*\.(q_proj|v_proj|down_proj)"
VISION = {
    "qwen2_vl": r".*visual.*\.(qkv|proj|fc1|mlp\.0)",
    "internvl": r".*vision_tower.*\.(q_proj|projection|fc2)",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 3, r"layers\.1\..*v_proj": 2, "v_proj": 5},
        "alpha_pattern": {r"layers.0.self_attn.q_proj": 11, "down_proj": 1},
    },
    "patterns with rslora": {
        "rank_pattern": {"q_proj": 3},
        "alpha_pattern": {"v_proj": 5},
        "use_rslora": True,
    },
    "modules to save": {"modules_to_save": ["norm"]},
    "all biases": {"bias": "all"},
    "biases of targets": {"bias": "lora_only"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("model", ["qwen2_vl", "internvl"])
def test_a_language_adapter_is_exact(model: str, settings: dict[str, Any], tmp_path: Path) -> None:
    kinds = assert_exact(TINY[model](), {"target_modules": LANGUAGE, **settings}, tmp_path)
    if not {"use_dora", "bias", "modules_to_save"} & settings.keys():
        assert set(kinds.values()) == {LowRank}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("model", ["qwen2_vl", "internvl"])
def test_a_vision_adapter_with_its_patch_convolution_is_exact(model: str, dora: bool, tmp_path: Path) -> None:
    kinds = assert_exact(TINY[model](), {"target_modules": VISION[model], "use_dora": dora}, tmp_path)
    assert any("patch" in name for name in kinds)
    assert set(kinds.values()) == {Dense if dora else LowRank}


def test_a_parameter_adapted_by_itself_is_exact(tmp_path: Path) -> None:
    settings = {
        "target_modules": ["up_proj"],
        "target_parameters": ["q_proj.weight", "model.language_model.layers.1.self_attn.v_proj.weight"],
        "rank_pattern": {r".*\.v_proj\.weight": 3},
        "alpha_pattern": {"q_proj.weight": 5},
    }
    kinds = assert_exact(TINY["qwen2_vl"](), settings, tmp_path)
    assert len(kinds) == 5 and set(kinds.values()) == {LowRank}


@pytest.mark.parametrize("dora", [False, True])
def test_an_embedding_adapter_is_exact(dora: bool, tmp_path: Path) -> None:
    settings = {"target_modules": ["embed_tokens", "q_proj"], "use_dora": dora}
    kinds = assert_exact(TINY["qwen2_vl"](), settings, tmp_path)
    embedding = next(kind for name, kind in kinds.items() if "embed_tokens" in name)
    assert embedding is (Dense if dora else LowRank)


@pytest.mark.parametrize("dora", [False, True])
def test_a_convolution_adapter_is_exact(dora: bool, tmp_path: Path) -> None:
    settings = {"target_modules": ["line", "plane", "point", "space"], "use_dora": dora}
    assert len(assert_exact(Convolutions(), settings, tmp_path)) == 4


def test_a_trained_bias_beside_the_factors_is_exact(tmp_path: Path) -> None:
    settings = {"target_modules": ["plane", "space"], "lora_bias": True}
    kinds = assert_exact(Convolutions(), settings, tmp_path)
    assert kinds["plane.bias"] is Dense and kinds["plane.weight"] is LowRank


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "c_fc"], ["attn.c_proj"]])
def test_transposed_layers_are_exact(targets: list[str], dora: bool, tmp_path: Path) -> None:
    assert_exact(gpt2(), {"target_modules": targets, "fan_in_fan_out": True, "use_dora": dora}, tmp_path)


def test_where_layers_differ_the_shape_decides_how_they_are_stored(tmp_path: Path) -> None:
    model = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    assert_exact(model, {"target_modules": ["c_attn", "lm_head"]}, tmp_path)


def test_a_square_layer_of_unknown_orientation_is_refused(tmp_path: Path) -> None:
    model = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    trained(model, {"target_modules": ["c_attn", "attn.c_proj", "lm_head"]}, tmp_path)
    adapter = open_adapter(tmp_path)
    with pytest.raises(AdapterError, match="orientation"):
        adapter.check_shapes({name: tuple(model.state_dict()[name].shape) for name in adapter.targets})


def test_half_precision_factors_are_merged_in_float32(tmp_path: Path) -> None:
    model = TINY["qwen2_vl"]().to(torch.bfloat16)
    trained(model, {"target_modules": LANGUAGE}, tmp_path)
    adapter = open_adapter(tmp_path)
    delta = adapter.delta(next(iter(adapter.targets)), no_base)
    assert isinstance(delta, LowRank) and delta.dtype == torch.float32


def no_base() -> torch.Tensor:
    raise AssertionError("the base isn't needed for plain LoRA")


def test_the_adapter_says_what_it_was_trained_on(tmp_path: Path) -> None:
    trained(TINY["qwen2_vl"](), {"target_modules": LANGUAGE}, tmp_path)
    adapter = open_adapter(str(tmp_path))
    target = adapter.targets["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert (target.kind, target.rank, target.shape) == ("lora", 4, (32, 32))
    assert adapter.identity() == open_adapter(tmp_path).identity()
    assert adapter.ref == str(tmp_path) and adapter.side_files == ()


def test_a_base_of_another_shape_is_refused(tmp_path: Path) -> None:
    trained(TINY["qwen2_vl"](), {"target_modules": LANGUAGE}, tmp_path)
    adapter = open_adapter(tmp_path)
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    with pytest.raises(AdapterError, match="doesn't fit"):
        adapter.delta(name, no_base, (32, 64))


def test_a_pickled_adapter_needs_permission_and_is_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained(TINY["qwen2_vl"](), {"target_modules": LANGUAGE}, tmp_path)
    before = open_adapter(tmp_path)
    wanted = {name: before.delta(name, no_base).dense() for name in before.targets}
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="allow_pickle"):
        open_adapter(tmp_path)
    adapter = open_adapter(tmp_path, allow_pickle=True)
    assert all(torch.equal(adapter.delta(name, no_base).dense(), delta) for name, delta in wanted.items())


Refusal = tuple[Callable[[], nn.Module], dict[str, Any], str]
REFUSED: dict[str, Refusal] = {
    "pissa": (
        gpt2,
        {"target_modules": ["c_attn"], "init_lora_weights": "pissa", "fan_in_fan_out": True},
        "changed base",
    ),
    "token rows": (
        TINY["qwen2_vl"],
        {"target_modules": LANGUAGE, "trainable_token_indices": [1, 2]},
        "token rows",
    ),
}


@pytest.mark.parametrize(("model", "settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_t_be_exact_is_refused(
    model: Any, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trained(model(), settings, tmp_path)
    with pytest.raises(AdapterError, match=message):
        open_adapter(tmp_path)


def test_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    model = peft.get_peft_model(gpt2(), peft.IA3Config(target_modules=["c_attn"], feedforward_modules=[]))
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="IA3"):
        open_adapter(tmp_path)
