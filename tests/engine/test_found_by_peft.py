"""A merged adapter changes only what PEFT finds in the base's class: proved, looked up, or said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge.architectures import KINDS, peft_places
from optmerge.errors import RecipeError
from worlds.merges import CONFIG, NORM, QUERY, UP, WIDTH, save, save_adapter, tuned, weights, world

RANKED = {"output": {"format": "adapter", "rank": 2}}
STRANGE = "model.layers.0.self_attn.gate_of_ours.weight"
MORE = {**weights(), STRANGE: torch.ones(WIDTH, WIDTH)}
FULL = {"select": {"components": ["language", "other"], "kinds": list(KINDS)}, **RANKED}


def test_names_of_a_given_adapter_need_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY, UP))
    monkeypatch.setitem(sys.modules, "optmerge.architectures._meta_model", None)
    plan = optmerge.plan(models.recipe(experts=[str(adapter)], output="adapter"))
    assert not any("PEFT" in said for said in plan.warnings)


def test_names_of_full_experts_are_looked_up_in_the_class(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1, base=weights())
    assert not any("PEFT" in said for said in optmerge.plan(models.recipe(**RANKED)).warnings)
    strange = world(tmp_path / "strange", experts=1, base=MORE)
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM[\s\S]*output: dense") as caught:
        optmerge.plan(strange.recipe(**RANKED))
    assert STRANGE in str(caught.value.got)
    assert optmerge.plan(strange.recipe(**RANKED, select={"exclude": ["gate_of_ours"]}))


def test_an_adapter_beside_a_full_expert_proves_only_its_own_names(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1, base=MORE)
    adapter = save_adapter(tmp_path / "a", (QUERY, STRANGE), base=MORE)
    experts = [str(models.experts[0]), str(adapter)]
    assert optmerge.plan(models.recipe(experts=experts, **RANKED))
    other = save_adapter(tmp_path / "b", (QUERY,), base=MORE)
    with pytest.raises(RecipeError, match="gate_of_ours"):
        optmerge.plan(models.recipe(experts=[experts[0], str(other)], **RANKED))


def test_weights_of_modules_that_peft_can_t_adapt_are_refused(tmp_path: Path) -> None:
    """A router is a module of its own class with a weight, to which PEFT puts no factors."""
    config = {**CONFIG, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4}
    router = "model.layers.0.mlp.gate.weight"
    base = {**weights(), router: torch.ones(4, WIDTH)}
    models = world(tmp_path, experts=1, base=base, config=config)
    select = {"kinds": ["router"]}
    with pytest.raises(RecipeError, match=r"mlp\.gate\.weight"):
        optmerge.plan(models.recipe(**RANKED, select=select))


def test_trained_vectors_are_looked_up_too(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1, base={**weights(), "model.norm_of_ours.weight": torch.ones(WIDTH)})
    with pytest.raises(RecipeError, match="norm_of_ours"):
        optmerge.plan(models.recipe(**FULL))
    assert optmerge.plan(models.recipe(**RANKED, select={"kinds": ["norm"], "include": [NORM]}))


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ({**CONFIG, "model_type": "internvl_chat"}, "language_model."),
        ({**CONFIG, "hidden_size": "wide"}, ""),
        (None, ""),
    ],
)
def test_where_there_is_no_class_the_plan_says_that_nothing_is_known(
    tmp_path: Path, config: dict[str, Any] | None, prefix: str
) -> None:
    base = {prefix + name: value for name, value in weights().items()}
    folder = save(tmp_path / "base", base, config=config)
    expert = save(tmp_path / "e", tuned(base, 1), config=config)
    recipe = {
        "base": str(folder),
        "experts": [str(expert)],
        "method": {"name": "task_arithmetic", "scale": 1},
        "select": {"components": ["language", "other"], "include": ["q_proj"]},
        **RANKED,
    }
    said = [each for each in optmerge.plan(recipe).warnings if "PEFT finds" in each]
    assert len(said) == 1 and "q_proj" in said[0] and "output: dense" in said[0]


def test_modules_of_a_class_are_told_by_what_peft_wraps() -> None:
    places = peft_places({**CONFIG, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1})
    assert not isinstance(places, str) and places.name == "GPT2LMHeadModel"
    assert {"transformer.h.0.attn.c_attn", "transformer.wte", "lm_head"} <= places.adaptable
    assert "transformer.ln_f" not in places.adaptable and "transformer.ln_f.weight" in places.parameters
    assert isinstance(peft_places({"model_type": "nobody's"}), str)
