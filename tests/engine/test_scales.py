"""Scales that the run chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge import Options
from optmerge.errors import MethodError, RecipeError
from optmerge.methods import registered
from worlds.merges import QUERY, UP, World, load, save, save_adapter, weights, world

RULED = [
    name
    for name, each in registered().items()
    if each.auto(each.resolve(each.validate({}), False)) is not None
]
CHOSEN = [name for name in RULED if name not in ("slerp", "optmerge")]


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path, experts=3)


def provenance(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "optmerge.json").read_text())
    return found


def test_every_method_that_had_a_scale_has_a_rule() -> None:
    assert {"swudi", "aswudi", "tsv", "iso_c", "task_arithmetic", "wudi", "ties", "dare_ties"} <= set(RULED)
    assert "average" not in RULED


@pytest.mark.parametrize("name", CHOSEN)
def test_what_was_chosen_written_as_a_number_gives_the_same_weights(name: str, models: World) -> None:
    """Methods that merge slices have one number; others have one a tensor, so one tensor is merged."""
    recipe = models.recipe(method=name, select={"include": [UP]})
    plan = optmerge.plan(recipe)
    assert plan.methods[0] and plan.methods[0].scale == "auto"
    found = optmerge.merge(recipe, models.root / "auto")
    (chosen,) = [each for each in found.scales if each]
    number = chosen.get("scale", chosen.get("median"))
    assert number > 0 and chosen["rule"] == plan.methods[0].auto
    optmerge.merge(recipe | {"method": {"name": name, "scale": number}}, models.root / "given")
    assert torch.equal(load(models.root / "auto")[UP], load(models.root / "given")[UP])


def test_provenance_and_card_hold_the_scales_and_the_reason(models: World) -> None:
    result = optmerge.merge(models.recipe(method="swudi"), models.out)
    found = provenance(models.out)
    (chosen,) = found["scales"]
    assert chosen == result.scales[0] and chosen["min"] <= chosen["median"] <= chosen["max"]
    own = [each["scale"] for each in found["tensors"].values() if each["action"] == "merge"]
    assert (min(own), max(own)) == (chosen["min"], chosen["max"])
    assert "√N rule" in (models.out / "README.md").read_text()
    assert list(chosen["lengths"]) == list(result.plan.expert_names)


def test_adapters_beside_a_full_expert_are_merged_as_strongly_as_the_same_in_full(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    base = weights()
    adapters = [save_adapter(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1)]
    full = []
    for index, adapter in enumerate(adapters):
        made = {
            "base": str(models.base),
            "experts": [str(adapter)],
            "method": {"name": "task_arithmetic", "scale": 1},
        }
        out = optmerge.merge(made, tmp_path / f"made{index}").path
        full.append(save(tmp_path / f"f{index}", base | load(out)))
    for method in ("swudi", "task_arithmetic", "optmerge"):
        found = []
        for kind, experts in (("mixed", adapters), ("full", full)):
            recipe = models.recipe(
                method=method, experts=[str(each) for each in (*experts, models.experts[0])]
            )
            found.append(load(optmerge.merge(recipe, tmp_path / f"{method}-{kind}").path))
        mixed, whole = found
        for name in (QUERY, UP):
            torch.testing.assert_close(mixed[name], whole[name], atol=1e-4, rtol=1e-3)


def test_a_merged_adapter_has_the_scales_of_the_whole_checkpoint(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapters = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1, 2)]
    for method in ("swudi", "task_arithmetic", "tsv"):
        recipe = models.recipe(method=method, experts=adapters)
        dense = optmerge.merge(recipe, tmp_path / f"{method}-dense")
        small = optmerge.merge(recipe | {"output": "adapter"}, tmp_path / f"{method}-adapter")
        assert dense.scales == small.scales


def test_an_expert_that_went_far_lowers_the_scale_and_is_named(models: World) -> None:
    even = optmerge.merge(models.recipe(method="swudi"), models.root / "even")
    experts = [
        {"model": str(each), "weight": 1 + 7 * (index == 1)} for index, each in enumerate(models.experts)
    ]
    far = optmerge.merge(models.recipe(method="swudi", experts=experts), models.root / "far")
    assert even.scales[0] and even.scales[0]["caution"] == 1
    assert not any(" went " in warning for warning in even.warnings)
    assert far.scales[0] and far.scales[0]["caution"] < 0.6
    assert any("'e1' went" in warning for warning in far.warnings)


def test_a_scale_that_no_rule_is_known_for_is_refused(models: World) -> None:
    for method in ({"name": "optmerge", "settings": "paper"}, {"name": "optmerge", "steps": 3}):
        with pytest.raises(MethodError, match="no rule for its scale"):
            optmerge.plan(models.recipe(method={**method, "scale": "auto"}))
    with pytest.raises(MethodError, match="has no scale"):
        optmerge.plan(models.recipe(method={"name": "average", "scale": "auto"}))
    with pytest.raises(RecipeError, match=r"method\.scale can't be used"):
        optmerge.plan(models.recipe(method={"name": "ties", "scale": "strong"}))


@pytest.mark.parametrize(
    "settings", [{"settings": "solved", "steps": 3}, {"settings": "paper", "converged": 0.9}]
)
def test_a_solution_and_steps_exclude_each_other(settings: dict[str, Any], models: World) -> None:
    with pytest.raises(MethodError, match="leave out"):
        optmerge.plan(models.recipe(method={"name": "optmerge", **settings}))


def test_everything_selected_has_a_scale(models: World) -> None:
    for method in ("swudi", "ties", "wudi"):
        recipe = models.recipe(method=method, select={"components": None, "kinds": None})
        result = optmerge.merge(recipe, models.root / method, Options(memory="2GiB"))
        assert all(
            torch.isfinite(each).all() for each in load(result.path).values() if each.is_floating_point()
        )
