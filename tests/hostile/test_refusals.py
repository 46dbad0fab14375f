"""Refusals of full experts, read aloud: none throws most of a model away, and none blames the base."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import optmerge
from optmerge.errors import InputError
from optmerge.recipe.overrides import override
from worlds.merges import CONFIG, EMBEDDING, QUERY, TOKENIZER, UP, Tensors, World, load, save, world

Damage = Callable[[Tensors], Tensors]


def prefixed(prefix: str) -> Damage:
    return lambda tensors: {prefix + name: each for name, each in tensors.items()}


def inside(level: str) -> Damage:
    return lambda tensors: {
        name.replace("self_attn.", f"self_attn.{level}."): each for name, each in tensors.items()
    }


WRAPPERS: dict[str, Damage] = {
    "torch.compile": prefixed("_orig_mod."),
    "DDP": prefixed("module."),
    "DeepSpeed": prefixed("_forward_module."),
    "FSDP": inside("_fsdp_wrapped_module"),
    "checkpointing": inside("_checkpoint_wrapped_module"),
    "compiled blocks": inside("_orig_mod"),
    "PEFT": prefixed("base_model.model."),
    "Lightning": prefixed("model."),
    "a trainer's own": prefixed("policy."),
    "several": prefixed("module._orig_mod.model."),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_that_a_wrapper_has_changed_are_read_as_the_models(tmp_path: Path, wrapper: str) -> None:
    models = world(tmp_path)
    whole = load(optmerge.merge(models.recipe(), tmp_path / "whole").path)
    tensors = WRAPPERS[wrapper](models.tensors(0))
    save_file(tensors, models.experts[0] / "model.safetensors", {"format": "pt"})
    merged = load(optmerge.merge(models.recipe(), models.out).path)

    assert tensors.keys() != models.tensors().keys()
    assert all(torch.equal(merged[name], each) for name, each in whole.items())


STATES: dict[str, tuple[Damage, str]] = {
    "ZeRO-3": (lambda tensors: {name: torch.zeros(0) for name in tensors}, "zero_to_fp32.py"),
    "FSDP": (lambda _: {"_fsdp_wrapped_module._flat_param": torch.zeros(9)}, "accelerate merge-weights"),
    "optimizer": (
        lambda tensors: {f"state.{name}.exp_avg": each for name, each in tensors.items()},
        "save_pretrained",
    ),
    "unmerged LoRA": (
        lambda tensors: {
            **{name.replace("q_proj.", "q_proj.base_layer."): each for name, each in tensors.items()},
            QUERY.replace(".weight", ".lora_A.default.weight"): torch.zeros(2, 6),
        },
        "merge_and_unload",
    ),
    "quantised": (
        lambda tensors: {**tensors, QUERY.replace(".weight", ".qweight"): torch.zeros(2, dtype=torch.int32)},
        "unquantised",
    ),
    "another model": (
        lambda tensors: {
            name.replace("model.layers", "transformer.h"): each for name, each in tensors.items()
        },
        "fine-tuned from one base",
    ),
    "another size": (
        lambda tensors: {name: torch.zeros([2 * n for n in each.shape]) for name, each in tensors.items()},
        "fine-tuned from one base",
    ),
    "half a model": (
        lambda tensors: dict(list(tensors.items())[:3]),
        "fine-tuned from one base",
    ),
}

SMALL: dict[str, Damage] = {
    "lacks one": lambda tensors: {name: each for name, each in tensors.items() if name != UP},
    "has more": lambda tensors: {
        **tensors,
        **{f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(2) for i in range(2)},
    },
    "one of another shape": lambda tensors: {**tensors, UP: torch.zeros(3, 3)},
    "another vocabulary": lambda tensors: {**tensors, EMBEDDING: torch.zeros(13, 6)},
}

OTHERS: dict[str, dict[str, Any]] = {
    "computes otherwise": {**CONFIG, "num_attention_heads": 3},
    "another kind": {**CONFIG, "model_type": "mistral"},
    "quantised": {**CONFIG, "quantization_config": {"quant_method": "awq"}},
}


def refusal(models: World, **changes: Any) -> InputError:
    with pytest.raises(InputError) as found:
        optmerge.plan(models.recipe(**changes))
    return found.value


def broken(tmp_path: Path, kind: str, case: str) -> World:
    """A base, a sound expert, and one that is refused."""
    models = world(tmp_path, files={"tokenizer.json": TOKENIZER})
    if kind == "config":
        (models.experts[1] / "config.json").write_text(json.dumps(OTHERS[case]))
        return models
    if kind == "tokens":
        changed = {"model": {"vocab": {**TOKENIZER["model"]["vocab"], "t3": 4, "t4": 3}}, "added_tokens": []}
        (models.experts[1] / "tokenizer.json").write_text(json.dumps(changed))
        return models
    damage = STATES[case][0] if kind == "state" else SMALL[case]
    save_file(
        {name: each.contiguous() for name, each in damage(models.tensors(1)).items()},
        models.experts[1] / "model.safetensors",
        {"format": "pt"},
    )
    return models


CASES = [
    *(("state", case) for case in STATES),
    *(("small", case) for case in SMALL),
    *(("config", case) for case in OTHERS),
    ("tokens", "swapped"),
]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=str)
def test_a_refusal_blames_the_expert_and_says_what_to_do(tmp_path: Path, kind: str, case: str) -> None:
    models = broken(tmp_path, kind, case)
    found = refusal(models)
    everything = str(found)

    assert found.hint, everything
    assert "e1" in everything and str(models.base) not in everything, everything
    assert not re.search(r"(use|give|try|choose) (the|another|that) base", found.hint), everything
    assert found.what[0].islower() and not found.hint.endswith(".")
    if kind == "state":
        assert STATES[case][1] in found.hint and "ignore" not in everything


@pytest.mark.parametrize("case", [case for case in SMALL if case != "another vocabulary"])
def test_ignore_is_offered_for_a_few_tensors_and_works(tmp_path: Path, case: str) -> None:
    models = broken(tmp_path, "small", case)
    hint = refusal(models).hint or ""
    patterns = re.search(r"ignore: (\[.*\])", hint)
    assert patterns is not None, hint
    allowed = override(models.recipe(), [f"ignore={patterns[1]}"])

    names = {*models.tensors(), *models.tensors(1)}
    disregarded = [name for name in names if any(re.search(p, name) for p in allowed["ignore"])]
    assert 0 < 2 * len(disregarded) <= len(names)
    assert optmerge.plan(allowed).counts()["merge"] == 6 - (UP in disregarded)


FOLDERS: dict[str, tuple[list[str], str]] = {
    "FSDP": (["__0_0.distcp", ".metadata"], "accelerate merge-weights"),
    "DeepSpeed": (["zero_to_fp32.py", "latest", "config.json"], "zero_to_fp32.py"),
    "ranks": (["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py"),
    "Meta": (["consolidated.00.pth", "params.json"], "convert_llama_weights_to_hf"),
    "optimizer": (["optimizer.pt", "scheduler.pt"], "saved beside it"),
    "GGUF": (["model-q4.gguf"], "safetensors"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_something_else_says_what_it_is(tmp_path: Path, case: str) -> None:
    models = world(tmp_path, experts=1)
    folder = tmp_path / "state"
    folder.mkdir()
    for name in FOLDERS[case][0]:
        (folder / name).write_text("{}")
    found = refusal(models, experts=[str(folder)])

    assert FOLDERS[case][1] in (found.hint or ""), str(found)


def test_a_link_that_leads_nowhere_is_not_offered_itself(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    weights = models.experts[0] / "model.safetensors"
    weights.unlink()
    weights.symlink_to("gone.safetensors")
    found = refusal(models)

    assert "the link leads nowhere" in (found.hint or ""), str(found)


def test_a_file_that_lies_is_told_from_a_missing_one(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    for content in (b"{", b"[]", b'{"a": "\xff"}', b"[" * 100_000):
        (models.experts[0] / "config.json").write_bytes(content)
        found = refusal(models)
        assert found.hint and "damaged" in found.hint and "config.json" in str(found.where), str(found)


def test_scale_0_is_told_from_an_empty_selection(tmp_path: Path) -> None:
    models = world(tmp_path)
    found = refusal(models, method={"name": "ties", "scale": 0})

    assert "scale" in (found.hint or "") and "select" not in (found.hint or "")


def test_a_checkpoint_that_only_looks_wrapped_is_left_alone(tmp_path: Path) -> None:
    """Two wrapped names that would become one aren't unwrapped."""
    base = save(tmp_path / "base", {"a.x": torch.ones(2, 2), "b.x": torch.ones(2, 2)}, config=None)
    expert = save(
        tmp_path / "e",
        {"module.a.x": torch.ones(2, 2), "_orig_mod.module.a.x": torch.ones(2, 2)},
        config=None,
    )
    recipe = World(tmp_path, base, (expert,)).recipe(select={"components": ["other"]})

    with pytest.raises(InputError, match="no fine-tune"):
        optmerge.plan(recipe)
