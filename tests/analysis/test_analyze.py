"""A recipe analyzed: laws that its figures keep, at every level, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import optmerge
from optmerge.analysis.analyze import Analysis, analyze
from optmerge.analysis.totals import layer_of, module_of
from optmerge.errors import CheckpointError, RecipeError
from worlds.merges import LAYERS, NORM, QUERY, UP, World, load, save_adapter, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def adapters(models: World, **changes: Any) -> dict[str, Any]:
    experts = [
        str(save_adapter(models.root / f"a{seed}", base=models.tensors(), seed=seed)) for seed in range(2)
    ]
    return models.recipe(experts=experts, **changes)


def test_one_expert_merged_alone_is_kept_whole(models: World) -> None:
    found = analyze(models.recipe(experts=[str(models.experts[0])], method="average"))

    each = found.total.experts["e0"]
    assert each.interference == pytest.approx(0, abs=1e-6)
    assert each.cosine == pytest.approx(1)
    assert each.dropped == pytest.approx(0, abs=1e-6)
    assert found.lengths == {"e0": 1.0}


def test_equal_experts_agree_in_everything(models: World) -> None:
    models.rewrite(1, lambda tensors: tensors.update(models.tensors(0)))
    (pair,) = analyze(models.recipe()).total.pairs

    assert [pair.cosine, pair.inputs_shared, pair.outputs_shared] == pytest.approx([1, 1, 1])
    assert pair.sign_agreement == 1


def test_opposite_experts_disagree_in_every_sign(models: World) -> None:
    base, expert = models.tensors(), models.tensors(0)
    models.rewrite(1, lambda tensors: tensors.update({name: 2 * base[name] - expert[name] for name in base}))
    found = analyze(models.recipe(method={"name": "task_arithmetic", "scale": 1}))
    (pair,) = found.total.pairs

    assert pair.cosine == pytest.approx(-1)
    assert pair.sign_agreement == pytest.approx(0, abs=0.01)
    assert found.total.experts["e0"].interference == pytest.approx(1, abs=1e-3)  # the merge is the base
    assert any("work against each other" in each for each in found.findings)


def test_figures_are_those_of_the_merge_that_is_written(models: World) -> None:
    recipe = models.recipe(dtype="float32")
    found = analyze(recipe)
    optmerge.merge(recipe, models.out)
    base, merged, expert = models.tensors(), load(models.out), models.tensors(0)

    tensors = {each["name"]: each for each in found.plain()["tensors"]}
    for name, each in tensors.items():
        delta, change = (expert[name] - base[name]).double(), (merged[name] - base[name]).double()
        assert each["merged"]["norm"] == pytest.approx(float(change.norm()), rel=1e-4)
        gap = float(((change - delta) @ delta.T).norm() / (delta @ delta.T).norm())
        assert each["experts"]["e0"]["interference"] == pytest.approx(gap, rel=1e-3)
        cosine = float((change * delta).sum() / change.norm() / delta.norm())
        assert each["experts"]["e0"]["cosine"] == pytest.approx(cosine, abs=1e-4)
        rounded = (base[name] + delta.float()).bfloat16().double()
        lost = float((rounded - base[name].double() - delta).norm() / delta.norm())
        assert each["experts"]["e0"]["delta"]["lost_to_bf16"] == pytest.approx(lost, rel=1e-3)
    assert set(tensors) == {name for name in base if "proj" in name}


def test_what_experts_moved_is_what_a_merge_reports(models: World) -> None:
    recipe = models.recipe()
    found = analyze(recipe)
    result = optmerge.merge(recipe, models.out)

    assert found.plan.changes == result.plan.changes
    assert found.plan.warnings == result.plan.warnings
    kept = {each.expert: each.moved for each in result.plan.changes if each.kept}
    assert {name: each.delta.moved for name, each in found.total.experts.items()} == pytest.approx(
        kept, rel=1e-3
    )


def test_layers_and_components_add_up_to_the_whole(models: World) -> None:
    found = analyze(models.recipe())

    def square(figures: Any) -> float:
        return float(figures.experts["e0"].delta.norm) ** 2

    whole = pytest.approx(square(found.total))
    layers = found.layers()
    assert [(first, last) for _, first, last in layers] == [(each, each) for each in range(LAYERS)]
    assert math.fsum(map(square, layers.values())) == whole
    assert math.fsum(map(square, found.components.values())) == whole
    assert [(first, last) for _, first, last in found.layers(1)] == [(0, LAYERS - 1)]


@pytest.mark.parametrize("method", ["swudi", "task_arithmetic", "wudi", "ties"])
def test_adapters_have_the_figures_of_the_models_that_they_make(models: World, method: str) -> None:
    recipe = adapters(models, method={"name": method, "scale": 0.5}, dtype="float32")
    thin = analyze(recipe)
    for index in range(2):
        optmerge.merge(
            recipe
            | {
                "experts": [recipe["experts"][index]],
                "method": {"name": "task_arithmetic", "scale": 1},
            },
            models.root / f"full{index}",
        )
    full = analyze(
        recipe | {"experts": [{"model": str(models.root / f"full{i}"), "name": f"a{i}"} for i in range(2)]}
    )

    for name, each in thin.total.experts.items():
        other = full.total.experts[name]
        assert each.interference == pytest.approx(other.interference, rel=0.01)
        assert each.delta.norm == pytest.approx(other.delta.norm, rel=1e-3)
        assert each.delta.effective_rank == pytest.approx(other.delta.effective_rank, rel=0.01)
    for pair, theirs in zip(thin.total.pairs, full.total.pairs, strict=True):
        assert pair.cosine == pytest.approx(theirs.cosine, abs=1e-3)
        assert pair.sign_agreement == pytest.approx(theirs.sign_agreement, abs=0.01)


def plain(found: Analysis) -> str:
    return json.dumps(found.plain(), allow_nan=False)


def test_neither_threads_nor_a_budget_change_a_figure(models: World) -> None:
    threads = torch.get_num_threads()
    recipe = models.recipe(method="swudi")
    alone = plain(analyze(recipe))
    try:
        torch.set_num_threads(3)
        assert plain(analyze(recipe)) == alone
        assert plain(analyze(recipe, memory="16GiB")) == alone
    finally:
        torch.set_num_threads(threads)


def test_an_expert_that_changes_nothing_has_no_figures_and_is_named(models: World) -> None:
    models.rewrite(0, lambda tensors: tensors.update(models.tensors()))
    found = analyze(models.recipe())

    each = found.total.experts["e0"]
    assert (each.interference, each.cosine, each.delta.stable_rank) == (None, None, None)
    assert found.total.pairs[0].cosine is None
    assert "e0 changes nothing that is merged" in found.findings
    plain(found)


def test_norms_and_biases_are_measured_without_spectra(models: World) -> None:
    found = analyze(models.recipe(select={"kinds": ["norm"]}))

    each = found.total.experts["e0"]
    assert each.delta.norm > 0
    assert (each.interference, each.delta.energy) == (None, None)
    plain(found)


def test_an_expert_that_went_far_is_named(tmp_path: Path) -> None:
    models = world(tmp_path, experts=3)
    base = models.tensors()
    models.rewrite(
        2, lambda tensors: tensors.update({name: 5 * tensors[name] - 4 * base[name] for name in base})
    )
    found = analyze(models.recipe())

    assert found.lengths["e2"] == pytest.approx(5, rel=0.2)
    assert any(each.startswith("e2 went ") for each in found.findings)


def test_rounding_that_takes_much_is_said_with_the_way_out(models: World) -> None:
    base = {name: each.bfloat16() for name, each in models.tensors().items()}
    save_file(base, models.base / "model.safetensors")
    for index, expert in enumerate(models.experts):
        noise = torch.Generator().manual_seed(index)
        tensors = {
            name: each.float() + 1e-3 * torch.randn(each.shape, generator=noise)
            for name, each in base.items()
        }
        save_file(tensors, expert / "model.safetensors")
    found = analyze(models.recipe(dtype="bfloat16"))

    assert found.total.merged.lost_to_bf16 is not None and found.total.merged.lost_to_bf16 > 0.5
    assert any("dtype: float32" in each for each in found.findings)


def test_json_holds_no_path_of_this_machine(models: World) -> None:
    assert str(models.root) not in plain(analyze(adapters(models)))


# --- what is refused


def test_a_recipe_that_merges_nothing_is_refused(models: World) -> None:
    with pytest.raises(RecipeError, match="no tensor would be merged"):
        analyze(models.recipe(select={"include": ["^nothing$"]}))


def test_a_budget_that_can_t_be_kept_is_refused_before_anything_is_read(models: World) -> None:
    with pytest.raises(RecipeError, match="budget can't be kept"):
        analyze(models.recipe(), memory="1MiB")


def test_values_that_are_no_numbers_are_refused(models: World) -> None:
    models.rewrite(0, lambda tensors: tensors[UP].fill_(math.nan))
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        analyze(models.recipe())


def test_names_have_a_layer_and_a_module() -> None:
    assert (layer_of(QUERY), module_of(QUERY)) == (0, "self_attn.q_proj")
    assert (layer_of(NORM), module_of(NORM)) == (None, "model.norm")
    assert module_of("h.3.attn.c_attn.weight") == "attn.c_attn"
    assert module_of("model.layers.1.mlp.experts.12.up_proj.weight") == "up_proj"
