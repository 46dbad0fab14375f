"""What a merge computes: methods, rules, weights, types and exceptions, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optmerge
from optmerge.errors import RecipeError
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    NORM,
    QUERY,
    UP,
    Tensors,
    World,
    load,
    save_adapter,
    tuned,
    weights,
    world,
)

EVERYTHING = {"components": None, "kinds": None}


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def merged(models: World, **changes: Any) -> Tensors:
    optmerge.merge(models.recipe(**changes), models.out)
    return load(models.out)


def assert_bits(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def delta(models: World, name: str) -> Tensor:
    return torch.stack([models.tensors(i)[name] - models.tensors()[name] for i in range(len(models.experts))])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "optmerge", "tsv", "dare_ties"])
def test_merged_tensors_are_the_base_and_the_scaled_merged_delta(models: World, method: str) -> None:
    found = merged(models, method={"name": method, "scale": 0.5})
    from optmerge.methods import Context

    base = models.tensors()
    for name in (QUERY, UP):
        context = Context(tensor=name, experts=("e0", "e1"), layout="matrix")
        expected = base[name] + 0.5 * optmerge.merge_deltas(method, delta(models, name), context=context)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-7)


def test_what_is_not_selected_is_the_bases_bit_for_bit(models: World) -> None:
    found, base = merged(models), models.tensors()

    assert found.keys() == base.keys()
    for name in (EMBEDDING, NORM):
        assert_bits(found[name], base[name])


def test_the_average_of_one_expert_is_that_expert_bit_for_bit(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    found = merged(models, method="average", select=EVERYTHING)

    for name, expected in models.tensors(0).items():
        assert_bits(found[name], expected)


def test_scale_zero_is_the_base_bit_for_bit(models: World) -> None:
    models.rewrite(None, lambda tensors: tensors[QUERY][0, 0].fill_(-0.0))
    found = merged(
        models,
        method={"name": "ties", "scale": 0},
        rules=[{"match": {"kinds": ["norm"]}, "method": "average"}],
    )

    for name, expected in models.tensors().items():
        if "norm" not in name:
            assert found[name].numpy().tobytes() == expected.numpy().tobytes()


def test_weights_multiply_the_experts_changes(models: World) -> None:
    experts = [
        {"model": str(path), "weight": weight} for path, weight in zip(models.experts, (2, -0.5), strict=True)
    ]
    found = merged(models, experts=experts)

    change = delta(models, QUERY)
    torch.testing.assert_close(
        found[QUERY], models.tensors()[QUERY] + 0.5 * (2 * change[0] - 0.5 * change[1])
    )


def test_the_weights_of_an_average_are_shares(models: World) -> None:
    experts = [
        {"model": str(path), "weight": weight} for path, weight in zip(models.experts, (3, 1), strict=True)
    ]
    found = merged(models, experts=experts, method="average")

    torch.testing.assert_close(
        found[QUERY], 0.75 * models.tensors(0)[QUERY] + 0.25 * models.tensors(1)[QUERY]
    )


def test_a_rule_merges_a_component_by_another_method(models: World) -> None:
    found = merged(models, rules=[{"match": {"kinds": ["norm"]}, "method": "average"}])

    torch.testing.assert_close(found[NORM], (models.tensors(0)[NORM] + models.tensors(1)[NORM]) / 2)


def test_a_rule_copies_from_an_expert_bit_for_bit(models: World) -> None:
    rules = [{"match": {"include": ["layers.0", "norm"]}, "copy_from": "e1"}]
    found = merged(models, rules=rules)

    for name in (QUERY, NORM, "model.layers.0.mlp.up_proj.weight"):
        assert_bits(found[name], models.tensors(1)[name])


def test_a_rule_copies_whole_numbers_from_an_expert_exactly(tmp_path: Path) -> None:
    base = weights() | {"model.counter": torch.tensor([2**60 + 1, 3])}
    models = world(tmp_path, base=base)
    models.rewrite(1, lambda tensors: tensors["model.counter"].add_(2))
    found = merged(models, rules=[{"match": {"include": ["counter"]}, "copy_from": "e1"}])

    assert found["model.counter"].tolist() == [2**60 + 3, 5]


def test_a_rule_copies_an_adapters_change_in_full(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapters = [save_adapter(tmp_path / f"a{seed}", (QUERY, UP), seed=seed) for seed in (0, 1)]
    changes: dict[str, Any] = {
        "experts": [str(folder) for folder in adapters],
        "rules": [{"match": {"include": ["q_proj"]}, "copy_from": "a1"}],
    }
    found = merged(models, **changes)

    low = load(adapters[1])
    module = f"base_model.model.{QUERY.removesuffix('.weight')}"
    change = 2 * low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]
    torch.testing.assert_close(found[QUERY], models.tensors()[QUERY] + change)


def test_an_adapter_and_a_full_expert_are_merged_together(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    adapter = save_adapter(tmp_path / "a", (QUERY,))
    found = merged(models, experts=[str(adapter), str(models.experts[0])])

    low, base = load(adapter), models.tensors()
    module = f"base_model.model.{QUERY.removesuffix('.weight')}"
    change = 2 * low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]
    full = {name: models.tensors(0)[name] - base[name] for name in base}
    torch.testing.assert_close(found[QUERY], base[QUERY] + 0.5 * (change + full[QUERY]))
    torch.testing.assert_close(found[UP], base[UP] + 0.5 * full[UP])


def test_ignored_tensors_of_an_expert_are_as_if_unchanged(models: World) -> None:
    models.rewrite(0, lambda tensors: tensors.pop(QUERY))
    models.rewrite(1, lambda tensors: tensors.update({"model.rope.inv_freq": torch.ones(2)}))
    found = merged(models, ignore=["q_proj", r"inv_freq$"])

    assert_bits(found[QUERY], models.tensors()[QUERY])
    assert "model.rope.inv_freq" not in found
    torch.testing.assert_close(found[UP], models.tensors()[UP] + 0.5 * delta(models, UP).sum(0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_outputs_type_is_the_one_asked_for_and_the_config_says_so(models: World, dtype: str) -> None:
    found = merged(models, dtype=dtype, method="average")

    wanted = getattr(torch, dtype)
    assert {tensor.dtype for tensor in found.values()} == {wanted}
    assert json.loads((models.out / "config.json").read_text())["dtype"] == dtype
    exact = (models.tensors(0)[QUERY] + models.tensors(1)[QUERY]) / 2
    assert_bits(found[QUERY], exact.to(wanted))
    assert_bits(found[NORM], models.tensors()[NORM].to(wanted))


def test_half_precision_is_merged_in_single_precision(tmp_path: Path) -> None:
    base = {name: tensor.bfloat16() for name, tensor in weights().items()}
    models = world(tmp_path, base=base)
    found = merged(models)

    wide = [
        {name: tensor.float() for name, tensor in tensors.items()}
        for tensors in (base, models.tensors(0), models.tensors(1))
    ]
    exact = wide[0][QUERY] + 0.5 * ((wide[1][QUERY] - wide[0][QUERY]) + (wide[2][QUERY] - wide[0][QUERY]))
    assert_bits(found[QUERY], exact.bfloat16())


@pytest.mark.parametrize("types", [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float32")])
def test_the_output_has_the_bases_types_whatever_the_experts(tmp_path: Path, types: tuple[str, str]) -> None:
    ours, theirs = (getattr(torch, name) for name in types)
    models = world(tmp_path)
    for index, dtype in ((None, ours), (0, theirs), (1, theirs)):
        models.rewrite(index, lambda t, dtype=dtype: t.update({n: x.to(dtype) for n, x in t.items()}))
    found = merged(models)

    assert {tensor.dtype for tensor in found.values()} == {ours}
    expected = models.tensors()[QUERY].double() + 0.5 * delta(models, QUERY).double().sum(0)
    torch.testing.assert_close(found[QUERY].double(), expected, rtol=1e-2, atol=1e-2)


def test_scalars_empty_tensors_and_whole_numbers_survive(tmp_path: Path) -> None:
    odd = {
        "model.scalar": torch.tensor(3.0),
        "model.empty": torch.zeros(0, 6),
        "model.mask": torch.tensor([True, False]),
        "model.ids": torch.arange(5),
        "model.stack": torch.randn(2, 3, 4),
    }
    models = world(tmp_path, base=weights() | odd)
    for method in ("task_arithmetic", "optmerge"):
        result = optmerge.merge(models.recipe(method=method, select=EVERYTHING), tmp_path / method)
        found = load(result.path)
        for name in ("model.empty", "model.mask", "model.ids"):
            assert_bits(found[name], odd[name])
        assert found["model.scalar"].shape == ()
        assert not torch.equal(found["model.stack"], odd["model.stack"])


def test_a_base_and_experts_may_be_single_files(tmp_path: Path) -> None:
    models = world(tmp_path)
    recipe = models.recipe(
        base=str(models.base / "model.safetensors"),
        experts=[str(path / "model.safetensors") for path in models.experts],
        select={"components": ["other"], "include": ["q_proj"]},
    )
    plan = optmerge.merge(recipe, models.out).plan

    assert plan.expert_names == ("model", "model-2")
    torch.testing.assert_close(
        load(models.out)[QUERY], models.tensors()[QUERY] + 0.5 * delta(models, QUERY).sum(0)
    )


def test_an_expert_may_be_in_a_folder_called_base(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    models.experts[0].rename(tmp_path / "ocr")
    (tmp_path / "ocr").rename((tmp_path / "deep").mkdir() or tmp_path / "deep" / "base")
    plan = optmerge.plan(models.recipe(experts=[str(tmp_path / "deep" / "base")]))

    assert plan.expert_names == ("base-2",)


def test_base_and_experts_in_other_names_of_the_same_tensors_meet(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    bare = {name.removeprefix("model."): each for name, each in tuned(weights(), 0).items()}
    from worlds.merges import save

    folder = save(tmp_path / "renamed", bare)
    found = merged(models, experts=[str(folder)])

    change = bare[QUERY.removeprefix("model.")] - models.tensors()[QUERY]
    torch.testing.assert_close(found[QUERY], models.tensors()[QUERY] + 0.5 * change)


def test_the_order_of_experts_changes_a_sum_by_rounding_only(models: World, tmp_path: Path) -> None:
    found = merged(models)
    swapped = optmerge.merge(
        models.recipe(experts=[str(e) for e in reversed(models.experts)]), tmp_path / "swapped"
    )

    assert swapped.plan.expert_names == ("e1", "e0")
    torch.testing.assert_close(load(swapped.path)[QUERY], found[QUERY], rtol=1e-6, atol=1e-6)


def test_a_base_without_config_meets_experts_with_one(tmp_path: Path) -> None:
    qwen = {**CONFIG, "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
    models = world(tmp_path, config=qwen)
    file = models.base / "model.safetensors"
    found = merged(models, base=str(file), select={"components": ["other"], "include": ["q_proj"]})

    torch.testing.assert_close(found[QUERY], models.tensors()[QUERY] + 0.5 * delta(models, QUERY).sum(0))


def test_a_rule_may_keep_the_bases_tensors_out_of_an_adapter(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY, UP))
    rules = [{"match": {"include": ["up_proj"]}, "copy_from": "base"}]
    found = merged(models, experts=[str(adapter)], rules=rules, output="adapter")

    assert all("q_proj" in name for name in found) and found


def test_an_adapter_can_not_hold_a_copy_of_an_experts_tensor(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY, UP))
    rules = [{"match": {"include": ["up_proj"]}, "copy_from": "a"}]
    with pytest.raises(RecipeError, match="an adapter can't hold"):
        merged(models, experts=[str(adapter)], rules=rules, output="adapter")
