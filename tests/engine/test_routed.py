"""A routed output: parts that PEFT loads, a budget that is kept, a router, and refusals before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import optmerge
from optmerge.engine.output import parts
from optmerge.engine.output.parts import leading, spend
from optmerge.engine.output.router import Router, read_router
from optmerge.errors import CheckpointError, RecipeError, RunError
from worlds.merges import CONFIG, LAYERS, UP, World, contents, load, save, tuned, weights, world

ROUTED = {"format": "routed", "budget": 1.0}
GATE = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def routed(models: World, out: str = "routed", **changes: Any) -> Path:
    return optmerge.merge(models.recipe(output=ROUTED, **changes), models.root / out).path


def part_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Parameter → what a part adds to it."""
    found = load_file(folder / "experts" / name / "adapter_model.safetensors")
    modules = {key.removesuffix(".lora_A.weight") for key in found if key.endswith("lora_A.weight")}
    return {
        f"{module.removeprefix('base_model.model.')}.weight": found[f"{module}.lora_B.weight"]
        @ found[f"{module}.lora_A.weight"]
        for module in modules
    }


def test_the_merge_is_that_of_a_dense_output_bit_for_bit(models: World) -> None:
    dense = optmerge.merge(models.recipe(), models.root / "dense").path
    folder = routed(models)
    assert (folder / "model.safetensors").read_bytes() == (dense / "model.safetensors").read_bytes()


def test_with_budget_enough_merge_and_part_are_the_expert(models: World) -> None:
    recipe = models.recipe(output={"format": "routed", "budget": 9.0}, method="average")
    folder = optmerge.merge(recipe, models.root / "routed").path
    merged = load(folder)
    for name in ("e0", "e1"):
        expert = load(models.root / name)
        for parameter, change in part_of(folder, name).items():
            torch.testing.assert_close(merged[parameter] + change, expert[parameter], atol=1e-5, rtol=1e-5)
    assert UP in part_of(folder, "e0")


def test_parts_and_router_have_no_more_weights_than_the_budget(models: World) -> None:
    recipe = models.recipe(output={"format": "routed", "budget": 0.5})
    result = optmerge.merge(recipe, models.root / "routed")
    folder = result.path / "experts"
    files = [folder / "router.safetensors", *folder.glob("*/adapter_model.safetensors")]
    written = sum(tensor.numel() for file in files for tensor in load_file(file).values())
    model = sum(tensor.numel() for tensor in load(result.path).values())
    assert result.parts is not None and result.plan.routed is not None
    assert written == result.parts.weights <= result.plan.routed.weights == int(0.5 * model)


def test_a_merge_that_is_stopped_among_its_parts_goes_on_to_the_same_bytes(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = contents(routed(models)), models.root / "stopped"
    made = parts._candidates
    count = 0

    def few(*given: Any) -> dict[str, torch.Tensor]:
        nonlocal count
        count += 1
        if count == 3:
            raise RunError("stopped")
        return made(*given)

    monkeypatch.setattr(parts, "_candidates", few)
    with pytest.raises(RunError):
        routed(models, "stopped")
    before = count
    optmerge.merge(models.recipe(output=ROUTED), out, optmerge.Options(mode="resume"))
    assert contents(out) == whole
    assert count - before < 3 * LAYERS, "tensors that were done are not done again"


def test_the_router_knows_whose_directions_an_input_has(models: World) -> None:
    folder = routed(models)
    base = load(models.root / "base")[GATE]
    router = read_router(folder)
    assert router.module == GATE.removesuffix(".weight")
    for name in ("e0", "e1"):
        change = load(models.root / name)[GATE] - base
        (direction,) = torch.linalg.svd(change)[2][:1]
        assert router.choices(direction[None]) == [name]


def test_an_input_that_fits_two_experts_alike_goes_to_the_merge() -> None:
    directions = torch.eye(4)[None, :2].repeat(2, 1, 1)
    router = Router(("a", "b"), "m", directions, 1, 0.05)
    assert router.choices(torch.ones(1, 4)) == [""]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": {"format": "dense", "budget": 0.2}}, "a budget needs a routed output"),
        ({"output": {"format": "adapter", "threshold": 0.2}}, "a threshold needs a routed output"),
        ({"output": {"format": "routed", "rank": 3}}, "a rank needs an adapter"),
        ({"output": {"format": "routed", "budget": 0.001}}, "budget is too small"),
        ({"output": "routed", "select": {"exclude": ["layers.0"]}}, "no router can be made"),
        ({"output": "routed", "select": {"include": ["down_proj"]}}, "no router can be made"),
    ],
)
def test_what_cannot_be_routed_is_refused_before_anything_is_written(
    models: World, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        optmerge.merge(models.recipe(**changes), models.out)
    assert not models.out.exists()


def test_one_expert_or_a_name_that_is_no_folder_is_refused(models: World) -> None:
    recipe = models.recipe(output="routed")
    with pytest.raises(RecipeError, match="nothing to route between"):
        optmerge.plan({**recipe, "experts": recipe["experts"][:1]})
    named = [{"model": str(models.root / "e0"), "name": "../e0"}, str(models.root / "e1")]
    with pytest.raises(RecipeError, match="name of a folder"):
        optmerge.plan({**recipe, "experts": named})


def test_an_expert_that_is_the_base_cannot_be_routed_to(models: World) -> None:
    base = weights()
    same = save(models.root / "same", base, config=CONFIG)
    other = save(models.root / "other", tuned(base, 7), config=CONFIG)
    recipe = {**models.recipe(output=ROUTED), "experts": [str(same), str(other)]}
    with pytest.raises(optmerge.errors.InputError, match="can't tell expert 'same'"):
        optmerge.merge(recipe, models.out)
    assert not models.out.exists()


def test_the_plan_says_what_parts_and_router_cost(models: World) -> None:
    dense, plan = optmerge.plan(models.recipe()), optmerge.plan(models.recipe(output=ROUTED))
    assert plan.routed is not None
    assert plan.cost.bytes_written - dense.cost.bytes_written == plan.routed.nbytes > 0
    assert plan.plain()["routed"]["weights"] == plan.routed.weights


def test_verify_finds_a_part_that_is_damaged(models: World) -> None:
    folder = routed(models)
    assert {check.name: check.ok for check in optmerge.verify(folder, load=False).checks}["part e1"]
    settings = folder / "experts" / "e1" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "peft_type": "OFT"}))
    found = {check.name: check.ok for check in optmerge.verify(folder, load=False).checks}
    assert found["router"] and found["part e0"] and not found["part e1"]


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"directions": [0, 1]},
        {"experts": ["../e0", "e1"]},
        {"experts": ["e0"]},
        {"module": None, "threshold": "x"},
    ],
)
def test_a_router_that_is_not_whole_is_refused(models: World, damage: dict[str, Any]) -> None:
    folder = routed(models)
    place = folder / "experts" / "router.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **damage}))
    with pytest.raises(CheckpointError):
        read_router(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(0, 200),
    st.data(),
)
def test_spending_keeps_to_the_budget_and_holds_no_less_than_equal_ranks(
    gains: list[list[float]], budget: int, data: st.DataObject
) -> None:
    arrays = [np.sort(np.array(own))[::-1] for own in gains]
    cost = data.draw(st.integers(1, 20))
    ranks = spend(arrays, [cost] * len(arrays), budget)
    assert sum(ranks) * cost <= budget
    equal = budget // (cost * len(arrays))
    held = sum(own[:rank].sum() for own, rank in zip(arrays, ranks, strict=True))
    assert held >= sum(own[:equal].sum() for own in arrays) * (1 - 1e-12)


def test_randomised_directions_are_those_of_the_exact_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(90, 70, generator=generator) @ torch.diag(0.8 ** torch.arange(70.0))
    exact = torch.linalg.svdvals(matrix)[:10]
    monkeypatch.setattr(parts, "EXACT_SIDE", 8)
    left, values, right = leading(matrix, 10)
    torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((left * values) @ right @ right.T, matrix @ right.T, rtol=1e-3, atol=1e-3)
