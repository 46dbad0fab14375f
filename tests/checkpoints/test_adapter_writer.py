"""Merged adapters: PEFT loads them, and they do what they say."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from optmerge.checkpoints.adapter_writer import write_adapter
from optmerge.checkpoints.adapters import open_adapter
from optmerge.deltas import LowRank
from optmerge.errors import AdapterError
from worlds.models import TINY

LAYER = "model.language_model.layers.{}.{}.weight"


def factor(shape: tuple[int, ...], rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    up, down = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return LowRank(up, down, shape if len(shape) > 2 else None)


def factors_for(model: nn.Module, ranks: dict[str, int]) -> dict[str, LowRank]:
    state = model.state_dict()
    return {
        name: factor(tuple(state[name].shape), rank, seed) for seed, (name, rank) in enumerate(ranks.items())
    }


def loaded_and_merged(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """PEFT's merge of the adapter; any warning of missing or unexpected keys is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers', about what PEFT calls
        model = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    return model.merge_and_unload().state_dict()


def assert_effect(model: nn.Module, folder: Path, changes: dict[str, Tensor]) -> None:
    merged = loaded_and_merged(model, folder)
    for name, before in model.state_dict().items():
        expected = before + changes[name] if name in changes else before
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_peft_loads_a_merged_adapter_of_many_ranks(tmp_path: Path) -> None:
    model = TINY["qwen2_vl"]()
    ranks = {LAYER.format(i, f"self_attn.{kind}_proj"): 4 for i in range(2) for kind in "qv"}
    ranks |= {LAYER.format(0, "mlp.down_proj"): 7, "lm_head.weight": 2, LAYER.format(1, "mlp.up_proj"): 0}
    factors = factors_for(model, ranks)
    write_adapter(tmp_path, factors, base_model_name="./base", task_type="CAUSAL_LM")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["rank_pattern"].values())) == (4, 4, [2, 7])
    assert_effect(model, tmp_path, {name: f.dense() for name, f in factors.items()})


def test_full_tensors_become_modules_to_save(tmp_path: Path) -> None:
    model = TINY["qwen2_vl"]()
    factors = factors_for(model, {LAYER.format(0, "self_attn.q_proj"): 3})
    name = "model.language_model.norm.weight"
    full = {name: model.state_dict()[name] + 1}
    write_adapter(tmp_path, factors, full, base_model_name="./base")
    changes = {key: value.dense() for key, value in factors.items()}
    assert_effect(model, tmp_path, {**changes, name: torch.ones(())})


def test_convolutions_and_embeddings_keep_their_forms(tmp_path: Path) -> None:
    model = TINY["qwen2_vl"]()
    embedding = "model.language_model.embed_tokens.weight"
    factors = factors_for(model, {"model.visual.patch_embed.proj.weight": 3, embedding: 3})
    write_adapter(tmp_path, factors, base_model_name="./base", embeddings=[embedding])
    changes = {name: f.dense() for name, f in factors.items()}
    if model.config.tie_word_embeddings:
        changes["lm_head.weight"] = changes[embedding]
    assert_effect(model, tmp_path, changes)


def test_transposed_layers_keep_their_form(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=2, vocab_size=48, n_positions=16))
    factors = factors_for(model, {f"transformer.h.{i}.attn.c_attn.weight": 3 for i in range(2)})
    write_adapter(tmp_path, factors, base_model_name="./base", transposed=factors.keys())
    assert_effect(model, tmp_path, {name: f.dense() for name, f in factors.items()})


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    model = TINY["internvl"]()
    factors = factors_for(model, {LAYER.format(i, "self_attn.q_proj"): i + 1 for i in range(2)})
    write_adapter(tmp_path, factors, base_model_name="./base")
    adapter = open_adapter(tmp_path)
    assert adapter.base_model_name == "./base"
    for name, written in factors.items():
        read = adapter.delta(name, lambda: pytest.fail("not needed"))
        assert isinstance(read, LowRank)
        assert torch.equal(read.up, written.up) and torch.equal(read.down, written.down)


def test_factors_are_stored_in_the_type_asked_for(tmp_path: Path) -> None:
    factors = {"a.weight": factor((4, 6), 2, 0)}
    write_adapter(tmp_path, factors, base_model_name="./base", dtype=torch.bfloat16)
    assert {info.dtype for info in open_adapter(tmp_path).header.tensors.values()} == {"BF16"}


@pytest.mark.parametrize(
    ("factors", "full", "message"),
    [
        ({"a.bias": factor((4, 1), 1, 0)}, {}, "only weights of modules"),
        ({"a.weight": factor((4, 6), 2, 0)}, {"a.bias": torch.zeros(4)}, "both adapt and replace"),
        ({"a.weight": factor((4, 6), 0, 0)}, {}, "empty"),
    ],
)
def test_what_peft_can_t_express_is_refused(
    factors: dict[str, LowRank], full: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=message):
        write_adapter(tmp_path, factors, full, base_model_name="./base")
    assert not list(tmp_path.iterdir())
