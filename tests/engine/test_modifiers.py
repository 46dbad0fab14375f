"""Modifiers and strengths over depth in recipes, plans, merges and provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import optmerge
from optmerge import Options
from optmerge.errors import InputError
from optmerge.methods import merge_deltas
from worlds.merges import QUERY, UP, World, load, save_adapter, weights, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path, experts=3)


def test_a_modifier_is_written_in_short_or_with_parameters(models: World) -> None:
    short = optmerge.plan(models.recipe(method="tsv+svc")).methods[0]
    long = optmerge.plan(
        models.recipe(method={"name": "tsv", "with": [{"name": "svc", "floor": 0.1}]})
    ).methods[0]
    assert short == long and short is not None
    assert (short.label, short.auto, short.scale) == ("tsv+svc", "decorrelating", "auto")
    assert short.plain()["with"] == [{"name": "svc", "parameters": {"floor": 0.1}}]
    assert "with" not in (optmerge.plan(models.recipe(method="tsv")).methods[0] or short).plain()


def test_a_modified_merge_is_the_modified_method_and_says_so(models: World) -> None:
    recipe = models.recipe(method={"name": "task_arithmetic", "scale": 0.5, "with": "svc"})
    optmerge.merge(recipe, models.out)
    base, experts = load(models.base), [load(expert) for expert in models.experts]
    deltas = torch.stack([expert[UP] - base[UP] for expert in experts])
    expected = base[UP] + 0.5 * merge_deltas("task_arithmetic+svc", deltas)
    torch.testing.assert_close(load(models.out)[UP], expected)
    found = json.loads((models.out / "optmerge.json").read_text())
    assert found["methods"][0]["with"][0]["name"] == "svc"
    assert found["tensors"][UP]["method"] == "task_arithmetic+svc"
    assert "task_arithmetic+svc" in (models.out / "README.md").read_text()
    assert "svc.floor 0.1" in (models.out / "README.md").read_text()


@pytest.mark.parametrize("name", ["swudi+svc", "ties+knots", "average+star"])
def test_threads_and_memory_change_no_byte(name: str, models: World) -> None:
    recipe = models.recipe(method=name)
    optmerge.merge(recipe, models.root / "one")
    optmerge.merge(recipe, models.root / "other", Options(memory="1GiB"))
    one, other = ((models.root / each / "model.safetensors").read_bytes() for each in ("one", "other"))
    assert one == other


def test_adapters_stay_one_adapter(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1)
    adapters = [str(save_adapter(tmp_path / f"a{seed}", seed=seed, rank=1)) for seed in (0, 1)]
    recipe = {
        "base": str(models.base),
        "experts": adapters,
        "method": "iso_c+core_space",
        "output": "adapter",
    }
    optmerge.merge(recipe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] <= 2
    assert weights()[QUERY].shape == (6, 6)


@pytest.mark.parametrize("method", ["task_arithmetic", "swudi", "swudi+svc"])
def test_a_strength_over_depth_multiplies_each_layers_scale(method: str, models: World) -> None:
    optmerge.merge(models.recipe(method=method), models.root / "even")
    over_depth = {"name": method, "strength": [0.5, 2]}
    optmerge.merge(models.recipe(method=over_depth), models.root / "steep")
    base, even, steep = (load(each) for each in (models.base, models.root / "even", models.root / "steep"))
    for name, factor in ((QUERY, 0.5), (UP, 2.0)):  # layers 0 and 1 of two
        torch.testing.assert_close(steep[name] - base[name], factor * (even[name] - base[name]))
    found = json.loads((models.root / "steep" / "optmerge.json").read_text())
    assert found["methods"][0]["depth"] == [0.5, 2.0]


def test_factors_over_depth_lie_on_straight_lines_and_the_rest_gets_the_first(models: World) -> None:
    use = optmerge.plan(models.recipe(method={"name": "swudi", "strength": [1, 2, 4]})).methods[0]
    assert use is not None
    assert [use.factor(depth) for depth in (None, 0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 1, 1.5, 2, 3, 4]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "tsv", "with": ["scv"]}, "did you mean 'svc'"),
        ({"name": "tsv", "with": [{"name": "svc", "floor": -1}]}, "out of its domain"),
        ({"name": "tsv", "with": [{"name": "svc", "flor": 1}]}, "did you mean 'floor'"),
        ({"name": "tsv", "with": 3}, "with"),
        ({"name": "ties", "trim": "model", "with": "svc"}, "write trim: tensor"),
        ({"name": "swudi", "strength": [1]}, "at least 2"),
        ({"name": "swudi", "strength": [1, -1]}, "greater than 0"),
        ({"name": "swudi", "strength": [1, "x"]}, "greater than 0|a number"),
        ({"name": "average", "strength": [1, 2]}, "has no scale"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(method: object, words: str, models: World) -> None:
    with pytest.raises(InputError) as caught:
        optmerge.merge(models.recipe(method=method), models.out)
    assert any(word in str(caught.value) for word in words.split("|"))
    assert not models.out.exists()
