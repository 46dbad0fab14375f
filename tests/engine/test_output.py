"""The bytes of an output: the same however it is cut, and laid out as save_pretrained does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open

import optmerge
from optmerge import Options
from optmerge.engine.planning import cost
from optmerge.engine.running import budget
from optmerge.methods import registered
from worlds.merges import QUERY, World, contents, load, save_adapter, watching, weights, world

EVERYTHING = {"components": None, "kinds": None}
SLICEABLE = sorted(name for name, method in registered().items() if method.granularity != "matrix")


@pytest.fixture(autouse=True)
def budgets_are_for_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "around_tensors", lambda: 0)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def merged_bytes(models: World, out: str, **changes: Any) -> dict[str, bytes]:
    optmerge.merge(models.recipe(**changes), models.root / out)
    return contents(models.root / out)


def sliced(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(budget, "SLICE_ELEMENTS", elements)


@pytest.mark.parametrize("method", SLICEABLE)
def test_slices_do_not_change_a_byte(method: str, models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(optmerge.merge(models.recipe(method=method, select=EVERYTHING), models.out).path)
    for elements in (1, 7, 24, 61):
        sliced(monkeypatch, elements)
        recipe = models.recipe(method=method, select=EVERYTHING)
        found = load(optmerge.merge(recipe, models.root / f"sliced-{elements}").path)
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_slices_do_not_change_a_byte_of_model_wise_ties(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"name": "ties", "trim": "model", "keep": 0.3}
    whole = load(optmerge.merge(models.recipe(method=method), models.out).path)
    for elements in (1, 13, 40):
        sliced(monkeypatch, elements)
        found = load(optmerge.merge(models.recipe(method=method), models.root / f"sliced-{elements}").path)
        assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("method", ["task_arithmetic", "average", "dare_task_arithmetic"])
def test_slices_do_not_change_a_byte_of_merged_adapters(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {QUERY: torch.randn(300, 170, generator=generator)}
    monkeypatch.setattr(cost, "FACTOR_SLICE_ELEMENTS", 20_000)
    models = world(tmp_path, experts=0, base=base)
    adapters = [save_adapter(tmp_path / f"a{i}", (QUERY,), base=base, rank=5, seed=i) for i in range(3)]
    recipe = models.recipe(method=method, experts=[str(folder) for folder in adapters])
    whole = load(optmerge.merge(recipe, models.out).path)
    for elements in (170, 3 * 170, 1000, 33_333):
        sliced(monkeypatch, elements)
        found = load(optmerge.merge(recipe, models.root / f"sliced-{elements}").path)
        assert torch.equal(found[QUERY], whole[QUERY]), f"slices of {elements}"


def test_a_memory_budget_does_not_change_a_byte(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = models.recipe(select=EVERYTHING)
    whole = optmerge.merge(recipe, models.out)
    half = whole.plan.cost.slice_bytes // 2
    tight = optmerge.merge(recipe, models.root / "tight", Options(memory=half))

    assert contents(tight.path) == contents(whole.path)


def test_a_budget_cuts_tensors_into_slices(models: World) -> None:
    plan = optmerge.plan(models.recipe(select=EVERYTHING))

    whole = cost.SLICE_ELEMENTS

    assert budget.fit_memory(plan, None).slice_elements == whole
    assert budget.fit_memory(plan, plan.cost.peak_bytes).slice_elements == whole
    assert budget.fit_memory(plan, plan.cost.slice_bytes // 2).slice_elements < whole


def test_a_budget_for_one_matrix_solves_one_at_a_time(models: World, two_cores: None) -> None:
    recipe = models.recipe(method="optmerge", select=EVERYTHING)
    side_by_side = optmerge.merge(recipe, models.out)
    needed = side_by_side.plan.cost.whole_tensor_bytes

    assert budget.fit_memory(side_by_side.plan, None).whole_tensors == 2
    assert budget.fit_memory(side_by_side.plan, needed).whole_tensors == 1
    alone = optmerge.merge(recipe, models.root / "alone", Options(memory=needed))
    assert contents(alone.path) == contents(side_by_side.path)


@pytest.mark.parametrize("size", [300, 700, 1_000])
def test_shards_hold_what_one_file_would(models: World, size: int) -> None:
    whole = load(optmerge.merge(models.recipe(), models.out).path)
    out = models.root / "sharded"
    optmerge.merge(models.recipe(output={"shard_size": size}), out)
    found = load(out)

    assert len(list(out.glob("model-0*.safetensors"))) > 1
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_shards_and_index_are_those_of_save_pretrained(models: World) -> None:
    import json

    optmerge.merge(models.recipe(output={"shard_size": 700}), models.out)
    order = [tensor.name for tensor in optmerge.plan(models.recipe()).tensors]
    state = models.tensors()
    theirs = split_torch_state_dict_into_shards({name: state[name] for name in order}, max_shard_size=700)
    index = json.loads((models.out / "model.safetensors.index.json").read_text())

    assert index["weight_map"] == theirs.tensor_to_filename
    assert index["metadata"]["total_size"] == theirs.metadata["total_size"]
    for file, names in theirs.filename_to_tensors.items():
        with safe_open(models.out / file, "pt") as opened:
            assert set(opened.keys()) == set(names)
            assert opened.metadata() == {"format": "pt"}


def test_two_runs_give_the_same_bytes(models: World) -> None:
    first = merged_bytes(models, "first", method={"name": "dare_ties"}, output={"shard_size": 700})
    second = merged_bytes(models, "second", method={"name": "dare_ties"}, output={"shard_size": 700})

    assert first == second


def test_the_output_holds_no_state_and_no_partial_file(models: World) -> None:
    files = merged_bytes(models, "out")

    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "optmerge.json"]


def test_progress_is_told_of_every_tensor_once(models: World) -> None:
    told: list[tuple[str, int]] = []
    result = optmerge.merge(
        models.recipe(), models.out, watch=watching(lambda tensor, size: told.append((tensor.name, size)))
    )

    assert [name for name, _ in told] == [tensor.name for tensor in result.plan.tensors]
    assert sum(size for _, size in told) == result.plan.cost.bytes_written


def test_a_base_in_shards_is_read_like_one_in_a_file(models: World) -> None:
    sharded = models.root / "sharded-base"
    optmerge.merge(
        models.recipe(
            method={"name": "ties", "scale": 0},
            rules=[],
            select={"include": ["."]},
            output={"shard_size": 700},
        )
        | {"rules": [{"match": {"include": ["model.norm"]}, "method": "average"}]},
        sharded,
    )
    whole = load(optmerge.merge(models.recipe(), models.out).path)
    found = load(optmerge.merge(models.recipe(base=str(sharded)), models.root / "again").path)

    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert torch.equal(found[QUERY], whole[QUERY])
    assert found.keys() == weights().keys()
