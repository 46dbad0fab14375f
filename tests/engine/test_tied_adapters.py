"""Adapters of embedding and head, against the live model of PEFT: its logits, or a refusal with the way out.

`merge_and_unload` is no oracle here. On a tied base it adds a change of one end to both.
"""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import optmerge
from optmerge.errors import AdapterError
from worlds.models import build
from worlds.samples import sample

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.sampled]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ENDS = {"embedding": ["embed_tokens"], "head": ["lm_head"], "both": ["embed_tokens", "lm_head"]}
HOW = ["lora", "dora", "whole"]
PROMPT = torch.tensor([[5, 17, 80, 3, 41]])

CASES = list(product(HOW, ENDS, [False, True]))
APART = [(how, end, tying) for how, end, tying in CASES if not tying or how == "dora"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = build("llama", tie_word_embeddings=True).eval()
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return model, folder


def adapted(model: PreTrainedModel, how: str, end: str, tying: bool, folder: Path) -> peft.PeftModel:
    """An adapter on disk, and the model that PEFT makes of it."""
    lora = how != "whole"
    config = peft.LoraConfig(
        r=4,
        lora_alpha=7,
        use_dora=how == "dora",
        target_modules=["q_proj", *(ENDS[end] if lora else [])],
        modules_to_save=None if lora else ENDS[end],
        ensure_weight_tying=tying,
    )
    trained = peft.get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    trained.save_pretrained(folder)
    return live(model, folder)


def live(model: PreTrainedModel, adapter: Path) -> peft.PeftModel:
    return peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=PROMPT).logits
    return found


def recipe(base: Path, adapter: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(base),
        "experts": [str(adapter)],
        "method": {"name": "task_arithmetic", "scale": 1},
        "select": {"kinds": None},
        **changes,
    }


def assert_untied(folder: Path, expected: Tensor) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    ends = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert ends[0].data_ptr() != ends[1].data_ptr()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("how", "end", "tying"), sample(CASES, 8))
def test_an_untied_merge_computes_what_the_adapted_model_does(
    base: tuple[PreTrainedModel, Path], how: str, end: str, tying: bool, tmp_path: Path
) -> None:
    model, folder = base
    expected = logits(adapted(model, how, end, tying, tmp_path / "adapter"))
    out = optmerge.merge(recipe(folder, tmp_path / "adapter", untie=True), tmp_path / "out").path

    assert {EMBEDDING, HEAD} <= load_file(out / "model.safetensors").keys()
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert_untied(out, expected)


@pytest.mark.parametrize(("how", "end"), sample(product(["lora", "whole"], ENDS), 3))
def test_ends_that_are_trained_as_one_are_merged_once(
    base: tuple[PreTrainedModel, Path], how: str, end: str, tmp_path: Path
) -> None:
    model, folder = base
    expected = logits(adapted(model, how, end, True, tmp_path / "adapter"))
    out = optmerge.merge(recipe(folder, tmp_path / "adapter"), tmp_path / "out").path

    assert HEAD not in load_file(out / "model.safetensors")
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("how", "end", "tying"), sample(APART, 5))
def test_ends_that_are_trained_apart_are_refused_in_a_tied_merge(
    base: tuple[PreTrainedModel, Path], how: str, end: str, tying: bool, tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, how, end, tying, tmp_path / "adapter")
    with pytest.raises(AdapterError, match="untied") as caught:
        optmerge.plan(recipe(folder, tmp_path / "adapter"))
    assert caught.value.hint is not None and "untie: true" in caught.value.hint


def test_ends_that_are_left_out_are_no_reason_to_refuse(
    base: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, "lora", "head", False, tmp_path / "adapter")
    plan = optmerge.plan(recipe(folder, tmp_path / "adapter", select={}))
    assert any("left out" in warning for warning in plan.warnings)


def test_a_saved_embedding_that_isnt_the_bases_is_below_both_ends(
    base: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, "lora", "embedding", False, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[f"base_model.model.{EMBEDDING.replace('.weight', '.base_layer.weight')}"] += 0.1
    save_file(tensors, file, {"format": "pt"})
    out = optmerge.merge(recipe(folder, tmp_path / "adapter", untie=True), tmp_path / "out").path
    assert_untied(out, logits(live(model, tmp_path / "adapter")))


@pytest.mark.parametrize("held", [EMBEDDING, HEAD])
def test_one_of_two_equal_ends_is_enough_where_peft_ties_them(
    base: tuple[PreTrainedModel, Path], held: str, tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, "whole", "both", True, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model." + (HEAD if held == EMBEDDING else EMBEDDING)]
    save_file(tensors, file, {"format": "pt"})
    out = optmerge.merge(recipe(folder, tmp_path / "adapter"), tmp_path / "out").path
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    changed = tensors[f"base_model.model.{held}"]
    torch.testing.assert_close(merged.get_input_embeddings().weight, changed)
    torch.testing.assert_close(merged.get_output_embeddings().weight, changed)


@pytest.mark.parametrize("untie", [False, True])
def test_a_merged_adapter_of_a_tied_base_computes_what_the_checkpoint_does(
    base: tuple[PreTrainedModel, Path], untie: bool, tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, "lora", "both", not untie, tmp_path / "adapter")
    asked = recipe(folder, tmp_path / "adapter", untie=untie)
    optmerge.merge(asked, tmp_path / "dense")
    optmerge.merge({**asked, "output": {"format": "adapter"}}, tmp_path / "low")

    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    torch.testing.assert_close(logits(live(model, tmp_path / "low")), logits(dense), rtol=1e-4, atol=1e-4)
    assert optmerge.verify(tmp_path / "low").ok


def test_two_targets_with_one_canonical_name_are_refused(
    base: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = base
    adapted(model, "whole", "embedding", True, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for name in list(tensors):
        if "layers.0" in name:
            tensors[name.replace("model.model.", "model.")] = tensors[name] + 1
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(AdapterError, match="two targets of the adapter are the same parameter"):
        optmerge.plan(recipe(folder, tmp_path / "adapter"))
