"""Hostile and damaged adapters: each is an error that names the tensor or the key."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from optmerge.checkpoints.adapters import open_adapter
from optmerge.errors import AdapterError, CheckpointError

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/base"}
Q = "base_model.model.layers.0.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
GOOD = {A: torch.ones(2, 6), B: torch.ones(4, 2)}


def adapter(folder: Path, tensors: dict[str, Tensor], config: Any) -> Path:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(text)
    save_file({name: each.clone() for name, each in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def test_the_example_is_good(tmp_path: Path) -> None:
    target = open_adapter(adapter(tmp_path, GOOD, CONFIG)).targets["layers.0.q_proj.weight"]
    assert (target.shape, target.rank, target.scaling) == ((4, 6), 2, 2.0)


MAGNITUDE = f"{Q}.lora_magnitude_vector"
FILES: dict[str, tuple[dict[str, Tensor], str]] = {
    "A without B": ({A: GOOD[A]}, "only one of its factors"),
    "B without A": ({B: GOOD[B]}, "only one of its factors"),
    "another rank": ({A: torch.ones(3, 6), B: torch.ones(4, 3)}, "rank is wrong"),
    "ranks that differ": ({A: torch.ones(2, 6), B: torch.ones(4, 3)}, "rank is wrong"),
    "factors of shards": ({A: torch.ones(0), B: torch.ones(0)}, "aren't matrices"),
    "a matrix and a kernel": ({A: torch.ones(2, 6), B: torch.ones(4, 2, 1, 1)}, "aren't matrices"),
    "a kernel in B": ({A: torch.ones(2, 6, 3), B: torch.ones(4, 2, 3)}, "kernel"),
    "an unknown key": ({**GOOD, f"{Q}.lora_C.weight": torch.ones(1)}, "unknown meaning"),
    "trained token rows": (
        {**GOOD, "e.token_adapter.trainable_tokens_delta": torch.ones(1, 2)},
        "unknown meaning",
    ),
    "a magnitude nobody announced": ({**GOOD, MAGNITUDE: torch.ones(4)}, "disagree"),
    "a magnitude alone": ({MAGNITUDE: torch.ones(4)}, "don't belong together"),
    "a replaced and adapted weight": ({**GOOD, f"{Q}.weight": torch.ones(4, 6)}, "both replaced and adapted"),
    "one target by two names": ({**GOOD, "layers.0.q_proj.lora_A.weight": torch.ones(2, 6)}, "twice"),
    "one target within two wrappers": (
        {**GOOD, A.replace("model.layers", "model._orig_mod.layers"): GOOD[A], f"module.{A}": GOOD[A]},
        "twice",
    ),
    "two adapters": (
        {
            A.replace("lora_A", "lora_A.default"): GOOD[A],
            B.replace("lora_B", "lora_B.default"): GOOD[B],
            "k.lora_A.other.weight": GOOD[A],
            "k.lora_B.other.weight": GOOD[B],
        },
        "several adapters",
    ),
    "an adapter on an adapter": (
        {f"{Q}.base_layer.lora_A.weight": GOOD[A], f"{Q}.base_layer.lora_B.weight": GOOD[B]},
        "isn't known",
    ),
    "nothing": ({}, "no tensors"),
}


STACK = "base_model.model.layers.0.experts"
STACKED: dict[str, tuple[dict[str, Tensor], list[str], str]] = {
    "A without B": ({f"{STACK}.lora_A.weight": torch.ones(6, 4)}, ["down_proj"], "A and B"),
    "part of an expert's rank": (
        {f"{STACK}.lora_A.weight": torch.ones(5, 4), f"{STACK}.lora_B.weight": torch.ones(3, 5)},
        ["down_proj"],
        "rank is wrong",
    ),
    "other experts in B": (
        {f"{STACK}.lora_A.weight": torch.ones(6, 4), f"{STACK}.lora_B.weight": torch.ones(3, 4)},
        ["down_proj"],
        "rank is wrong",
    ),
    "factors of shards": (
        {f"{STACK}.lora_A.weight": torch.ones(0), f"{STACK}.lora_B.weight": torch.ones(0)},
        ["down_proj"],
        "sharded",
    ),
    "one of two parameters": (
        {f"{STACK}.lora_A.weight": torch.ones(6, 4), f"{STACK}.lora_B.weight": torch.ones(3, 6)},
        ["down_proj", "gate_up_proj"],
        "isn't known",
    ),
    "parameters in an unknown order": (
        {
            f"{STACK}.{level}lora_{factor}.weight": torch.ones(6, 6)
            for level in ("", "base_layer.")
            for factor in "AB"
        },
        ["omega", "psi"],
        "isn't known",
    ),
}


@pytest.mark.parametrize(("tensors", "parameters", "message"), STACKED.values(), ids=STACKED.keys())
def test_factors_of_stacks_that_make_no_sense_are_refused(
    tensors: dict[str, Tensor], parameters: list[str], message: str, tmp_path: Path
) -> None:
    config = {**CONFIG, "target_modules": ["q_proj"], "target_parameters": parameters}
    with pytest.raises(AdapterError, match=message):
        open_adapter(adapter(tmp_path, tensors, config))


@pytest.mark.parametrize(("tensors", "message"), FILES.values(), ids=FILES.keys())
def test_a_file_that_makes_no_sense_is_refused(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=message):
        open_adapter(adapter(tmp_path, tensors, CONFIG))


@pytest.mark.parametrize("length", [3, 6])
def test_a_magnitude_of_another_length_is_refused(length: int, tmp_path: Path) -> None:
    tensors = {**GOOD, MAGNITUDE: torch.ones(length)}
    with pytest.raises(AdapterError, match="magnitude is wrong"):
        open_adapter(adapter(tmp_path, tensors, {**CONFIG, "use_dora": True}))


CONFIGS: dict[str, Any] = {
    "a list": [],
    "not JSON": b"{",
    "not UTF-8": b'{"peft_type": "\xff"}',
    "deep nesting": b"[" * 200_000,
    "no kind": {"r": 2},
    "another kind": {**CONFIG, "peft_type": "LOHA"},
    "a rank of zero": {**CONFIG, "r": 0},
    "a negative rank": {**CONFIG, "r": -2},
    "a boolean rank": {**CONFIG, "r": True},
    "a rank as text": {**CONFIG, "r": "2"},
    "an alpha as text": {**CONFIG, "lora_alpha": "4"},
    "an infinite alpha": json.dumps({**CONFIG, "lora_alpha": float("inf")}).encode(),
    "an alpha that isn't a number": json.dumps({**CONFIG, "lora_alpha": float("nan")}).encode(),
    "patterns in a list": {**CONFIG, "rank_pattern": ["q_proj"]},
    "a pattern that isn't one": {**CONFIG, "rank_pattern": {"(": 2}},
    "a pattern nested too deeply": {**CONFIG, "rank_pattern": {"(" * 3000 + ")" * 3000: 2}},
    "a pattern repeated too often": {**CONFIG, "alpha_pattern": {"((a{100}){100}){100}": 2}},
    "a pattern that looks ahead": {**CONFIG, "rank_pattern": {"(?=q)q_proj": 2}},
    "a pattern of rank zero": {**CONFIG, "rank_pattern": {"q_proj": 0}},
    "a flag as text": {**CONFIG, "use_rslora": "yes"},
    "replicated layers": {**CONFIG, "layer_replication": [[0, 1]]},
    "PiSSA": {**CONFIG, "init_lora_weights": "pissa_niter_4"},
    "OLoRA": {**CONFIG, "init_lora_weights": "olora"},
    "QALoRA": {**CONFIG, "use_qalora": True},
    "parameters that are no names": {**CONFIG, "target_parameters": [3]},
    "modules that are no names": {**CONFIG, "target_parameters": ["w"], "target_modules": {"a": 1}},
    "aLoRA": {**CONFIG, "alora_invocation_tokens": [1]},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_configuration_that_can_t_be_honoured_is_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        open_adapter(adapter(tmp_path, GOOD, config))


def test_a_pattern_that_would_never_end_ends_at_once(tmp_path: Path) -> None:
    module = "base_model.model." + "a" * 900
    tensors = {f"{module}.lora_A.weight": GOOD[A], f"{module}.lora_B.weight": GOOD[B]}
    patterns = {"(a+)+b": 3, "(a|aa)*c": 3, "(.*.*.*.*.*)*d": 3, "a+": 2}
    started = time.process_time()
    opened = open_adapter(adapter(tmp_path, tensors, {**CONFIG, "r": 3, "rank_pattern": patterns}))

    assert time.process_time() - started < 1
    assert [target.rank for target in opened.targets.values()] == [2]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(AdapterError, match="no weights"):
        open_adapter(tmp_path)
    with pytest.raises(AdapterError, match="not an adapter"):
        open_adapter(tmp_path.parent)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter(folder, GOOD, CONFIG)
    (folder / "adapter_model.safetensors").rename(tmp_path / "outside")
    (folder / "adapter_model.safetensors").symlink_to("../outside")
    with pytest.raises(AdapterError, match="outside"):
        open_adapter(folder)


def test_an_adapter_that_changes_while_it_is_used_is_refused(tmp_path: Path) -> None:
    opened = open_adapter(adapter(tmp_path, GOOD, CONFIG))
    save_file({**GOOD, f"{Q}.bias": torch.ones(4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="changed"):
        opened.delta("layers.0.q_proj.weight", lambda: torch.zeros(4, 6))
