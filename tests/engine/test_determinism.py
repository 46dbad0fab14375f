"""One recipe, one output: whatever the budget, the threads, the shards, the interruptions, the order."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optmerge
from optmerge import Options
from optmerge.engine.output import dense as dense_output
from optmerge.engine.output import folder as state
from optmerge.engine.plan import TensorPlan
from optmerge.engine.running import budget
from optmerge.methods import registered
from worlds.merges import Tensors, World, contents, load, save_adapter, watching, weights, world
from worlds.samples import examples, sample

EVERYTHING = {"components": None, "kinds": None}
ALL_CORES = {"tsv", "iso_c"}
"""Solved on all cores at once, so that LAPACK's rounding depends on how many there are."""

METHODS: dict[str, Any] = {name: {"name": name} for name in registered()}
METHODS["ties of the whole model"] = {"name": "ties", "trim": "model", "keep": 0.3}
for _slow in ("optmerge", "wudi"):
    METHODS[_slow] |= {"steps": 3}
WORLDS = ("float32", "bfloat16", "adapters")


@pytest.fixture(autouse=True)
def budgets_are_for_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "around_tensors", lambda: 0)


class Stop(BaseException):
    """Stops a merge half-way."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    """Two full experts in either precision, and two adapters."""
    generator = torch.Generator().manual_seed(1)
    base = weights() | {
        "model.layers.0.mlp.gate_proj.weight": torch.randn(70, 33, generator=generator),
        "model.layers.0.mlp.experts.stack": torch.randn(3, 9, 17, generator=generator),
        "model.layers.1.mlp.gate_proj.weight": torch.randn(33, 150, generator=generator),
    }
    root = tmp_path_factory.mktemp("worlds")
    found = {
        kind: world(root / kind, base={name: each.to(getattr(torch, kind)) for name, each in base.items()})
        for kind in WORLDS[:2]
    }
    bare = world(root / WORLDS[2], experts=0, base=base)
    targets = [name for name in base if name.endswith("_proj.weight")]
    folders = [save_adapter(bare.root / f"a{s}", targets, base=base, rank=3, seed=s) for s in (0, 1)]
    return found | {WORLDS[2]: World(bare.root, bare.base, tuple(folders))}


def merged(models: World, out: str, memory: int | None = None, threads: int = 1, **changes: Any) -> Path:
    torch.set_num_threads(threads)
    shutil.rmtree(models.root / out, ignore_errors=True)
    return optmerge.merge(models.recipe(**changes), models.root / out, Options(memory=memory)).path


def same(found: Tensors, expected: Tensors) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


kinds = st.sampled_from(WORLDS)
methods = st.sampled_from(sorted(METHODS))
LIMITS = settings(
    deadline=None,
    max_examples=examples(few=7, many=60),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.sampled
@LIMITS
@given(kinds, methods, st.integers(1, 4), st.floats(0, 1), st.integers(12, 18))
def test_budget_and_threads_change_no_byte(
    models: Mapping[str, World], kind: str, method: str, threads: int, share: float, slices: int
) -> None:
    if METHODS[method]["name"] in ALL_CORES:
        threads = 1
    chosen = {"method": METHODS[method], "select": EVERYTHING}
    whole = merged(models[kind], "whole", **chosen)
    cost = optmerge.plan(models[kind].recipe(**chosen)).cost
    memory = cost.whole_tensor_bytes + int(share * cost.peak_bytes) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "SLICE_ELEMENTS", 1 << slices)
        patch.setattr(budget, "FEWEST_ELEMENTS", 64)
        other = merged(models[kind], "other", memory, threads, **chosen)

    assert contents(other) == contents(whole)


@pytest.mark.sampled
@LIMITS
@given(kinds, methods, st.integers(100, 60_000), st.integers(1, 2))
def test_shards_change_no_tensor(
    models: Mapping[str, World], kind: str, method: str, size: int, threads: int
) -> None:
    if METHODS[method]["name"] in ALL_CORES:
        threads = 1
    chosen = {"method": METHODS[method], "select": EVERYTHING}
    whole = merged(models[kind], "whole", **chosen)
    sharded = merged(models[kind], "sharded", threads=threads, output={"shard_size": size}, **chosen)

    assert same(load(sharded), load(whole))


@pytest.mark.sampled
@LIMITS
@given(kinds, methods, st.lists(st.integers(1, 14), max_size=3), st.data())
def test_interruptions_change_no_byte_even_on_other_machines(
    models: Mapping[str, World], kind: str, method: str, stops: list[int], data: st.DataObject
) -> None:
    """Every part of the merge runs with another number of threads and another budget."""
    chosen = {"method": METHODS[method], "select": EVERYTHING, "output": {"shard_size": 9000}}
    whole = merged(models[kind], "whole", **chosen)
    recipe, out = models[kind].recipe(**chosen), models[kind].root / "stopped"
    needed = optmerge.plan(recipe).cost.whole_tensor_bytes
    shutil.rmtree(out, ignore_errors=True)
    mode: state.Mode = "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_output, "SYNC_SECONDS", 0.0)
        patch.setattr(budget, "FEWEST_ELEMENTS", 64)
        parts = [
            (after, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 10**5))) for after in [*stops, 999]
        ]
        for after, threads, more in parts:
            torch.set_num_threads(1 if METHODS[method]["name"] in ALL_CORES else threads)
            try:
                optmerge.merge(recipe, out, Options(mode=mode, memory=needed + more), watching(_stop(after)))
            except Stop:
                mode = "resume"
            else:
                break

    assert contents(out) == contents(whole)


def _stop(after: int) -> Any:
    left = [after]

    def count(tensor: TensorPlan, size: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Stop

    return count


ASYMMETRIC = {"slerp", "tsv"}
"""slerp goes from one to the other; TSV takes the SVD of them side by side."""


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "method"), sample(itertools.product(WORLDS[:2], sorted(METHODS.keys() - ASYMMETRIC)), 8)
)
def test_two_checkpoints_in_either_order_change_no_byte(
    models: Mapping[str, World], kind: str, method: str
) -> None:
    one, other = in_either_order(models[kind], method)

    assert same(one, other)


@pytest.mark.sampled
@pytest.mark.parametrize("method", sample(sorted(METHODS.keys() - ALL_CORES), 4))
def test_two_adapters_in_either_order_change_roundings_only(models: Mapping[str, World], method: str) -> None:
    """TSV and Iso-C give the null space of low-rank changes a weight, where rounding is all there is."""
    one, other = in_either_order(models["adapters"], method)

    assert close(one, other, models["adapters"].tensors())


def in_either_order(models: World, method: str) -> tuple[Tensors, Tensors]:
    chosen = {"method": METHODS[method], "select": EVERYTHING}
    experts = [str(folder) for folder in reversed(models.experts)]
    one, other = merged(models, "one", **chosen), merged(models, "other", experts=experts, **chosen)
    return load(one), load(other)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "method",
    sample(sorted(name for name in METHODS if registered()[METHODS[name]["name"]].exactly is None), 5),
)
def test_three_experts_in_any_order_change_roundings_only(tmp_path: Path, method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    base = weights() | {"model.layers.0.mlp.gate_proj.weight": torch.randn(24, 40, generator=generator)}
    models = world(tmp_path, experts=3, base=base)
    chosen = {"method": METHODS[method], "select": EVERYTHING}
    one = load(merged(models, "one", **chosen))
    for order in sample([*itertools.permutations(models.experts)][1:], 2):
        other = load(merged(models, "other", experts=[str(folder) for folder in order], **chosen))
        assert close(one, other, models.tensors())


def close(one: Tensors, other: Tensors, base: Tensors) -> bool:
    """Changes that agree up to what float32 loses."""
    return all(
        float((one[name].double() - other[name].double()).norm())
        <= 1e-5 * float((one[name].double() - base[name].double()).norm())
        for name in one
    )
