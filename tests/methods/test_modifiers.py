"""What must be true of modifiers, whatever method they go around."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from perf.workspace import cases, measured

from optmerge.deltas import Dense, LowRank
from optmerge.errors import MergeWarning, MethodError
from optmerge.methods import MODIFIERS, Case, Context, get, merge_deltas, modifier_use
from worlds.deltas import factors, materialised, orthogonal, randn, relative
from worlds.methods import out_of_domain

NAMES = list(MODIFIERS.all())
every_modifier = pytest.mark.parametrize("name", NAMES)
INNER = ("task_arithmetic", "swudi", "ties", "tsv")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MergeWarning)
        yield


@every_modifier
def test_a_docstring_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    modifier = MODIFIERS.get(name)
    text = inspect.getdoc(modifier.function) or ""
    assert modifier.summary.endswith(".") and "\nSource: " in text
    assert all(f"\n    {parameter}: " in text for parameter in modifier.parameters.model_fields)


@every_modifier
def test_a_value_out_of_its_domain_and_an_unknown_parameter_are_refused(name: str) -> None:
    modifier = MODIFIERS.get(name)
    with pytest.raises(MethodError, match="has no parameter 'colour'"):
        modifier_use(name, {"colour": "red"})
    for parameter in modifier.parameters.model_fields:
        for bad in out_of_domain(modifier, parameter):
            with pytest.raises(MethodError, match=f"{parameter}.* of {name} is out of its domain"):
                modifier_use(name, {parameter: bad})


@every_modifier
@pytest.mark.parametrize("inner", INNER)
def test_it_goes_around_any_method_and_leaves_the_deltas_alone(name: str, inner: str) -> None:
    deltas = randn(3, 8, 6, seed=1)
    before = deltas.clone()
    merged = merge_deltas(f"{inner}+{name}", deltas)
    assert merged.shape == (8, 6) and merged.dtype == deltas.dtype and torch.isfinite(merged).all()
    assert torch.equal(deltas, before)
    assert torch.equal(merge_deltas(f"{inner}+{name}", deltas), merged)
    assert not merge_deltas(f"{inner}+{name}", torch.zeros(2, 5, 4)).any()


@every_modifier
def test_the_order_of_the_experts_does_not_matter(name: str) -> None:
    deltas = randn(3, 9, 7, seed=3)
    one, other = (merge_deltas(f"swudi+{name}", each) for each in (deltas, deltas[[2, 0, 1]]))
    assert relative(other, one) < 1e-8


@every_modifier
def test_one_expert_that_did_not_move_changes_nothing_but_what_counts_experts(name: str) -> None:
    deltas = randn(2, 8, 6, seed=4)
    padded = torch.cat([deltas, torch.zeros(1, 8, 6, dtype=deltas.dtype)])
    if name not in ("pico", "mean_with"):  # the mean length, and TSV's rank, count all experts
        assert relative(merge_deltas(f"swudi+{name}", padded), merge_deltas(f"swudi+{name}", deltas)) < 1e-8


@every_modifier
def test_vectors_are_merged_by_the_method_alone_and_every_layout_as_its_matrices(name: str) -> None:
    vectors = randn(3, 7, 1, seed=5)[..., 0]
    assert torch.equal(merge_deltas(f"ties+{name}", vectors), merge_deltas("ties", vectors))
    stacks = torch.stack([randn(3, 6, 4, seed=6), randn(3, 6, 4, seed=7)], dim=1)
    each = torch.stack([merge_deltas(f"swudi+{name}", stacks[:, index]) for index in range(2)])
    assert torch.equal(merge_deltas(f"swudi+{name}", stacks), each)
    turned = merge_deltas(f"swudi+{name}", stacks.mT, context=Context(layout="transposed_stack"))
    assert relative(turned.mT, each) < 1e-8


@every_modifier
def test_factors_stay_factors_and_give_what_their_products_give(name: str) -> None:
    deltas = [factors(12, 10, 2, seed=index) for index in (1, 5, 9)]
    merged = merge_deltas(f"swudi+{name}", deltas)
    assert isinstance(merged, LowRank) and merged.shape == (12, 10)
    if name not in ("mean_with", "subspace_boosting", "isotropize", "core_space"):  # null directions, sides
        given = {"split": "even"} if name == "pico" else {}
        method = get("swudi", [modifier_use(name, given)])
        parameters = method.resolve(method.validate({}), True)
        low, dense = (method.function(each, **parameters) for each in (deltas, materialised(deltas)))
        assert relative(low.dense(), dense.dense()) < 1e-6
    method = get(f"swudi+{name}")
    assert method.resources.keeps_factors(method.resolve(method.validate({}), True))


@every_modifier
def test_no_more_memory_is_held_than_declared(name: str) -> None:
    method = get(f"task_arithmetic+{name}")
    for case in cases(method, ((96, 96), (48, 192), (192, 48))):
        held, declared = measured(method, case), method.resources.workspace(case)
        assert held <= declared, f"{case.m}×{case.n}, {case.experts} experts: {held:.1f} > {declared:.1f}"


def test_svc_is_its_definition_loop_by_loop_and_forgets_how_long_the_merge_was() -> None:
    deltas = randn(3, 8, 6, seed=8)
    merged = deltas.sum(0)
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    expected = torch.zeros_like(merged)
    for r in range(6):
        total = 0.0
        for delta in deltas:
            mine = left[:, r] @ delta
            total += max(0.3, float((left[:, r] @ merged) @ mine / (mine @ mine)))
        expected += 3 / total * values[r] * torch.outer(left[:, r], right[r])
    method = get("task_arithmetic", [modifier_use("svc", {"floor": 0.3})])
    assert relative(method.function([Dense(delta) for delta in deltas]).dense(), expected) < 1e-10
    short, long = (merge_deltas(f"{each}+svc", deltas) for each in ("average", "task_arithmetic"))
    alike = torch.stack([randn(8, 6, seed=9) + 0.1 * delta for delta in deltas])
    short, long = (merge_deltas(f"{each}+svc", alike[:, :, :1]) for each in ("average", "task_arithmetic"))
    assert relative(short, long) < 1e-8


def test_the_mean_of_two_methods_is_as_long_as_the_experts_side_by_side() -> None:
    deltas = randn(3, 8, 6, seed=10)
    merged = merge_deltas("swudi+mean_with", deltas)
    assert float(merged.norm()) == pytest.approx(float(deltas.norm()))
    first, second = merge_deltas("swudi", deltas), merge_deltas("tsv", deltas)
    expected = first / first.norm() + second / second.norm()
    assert relative(merged, expected * deltas.norm() / expected.norm()) < 1e-8


def test_core_space_changes_nothing_for_methods_that_commute_with_rotations() -> None:
    deltas = [factors(12, 10, 2, seed=index) for index in (1, 5)]
    for inner in ("actmat", "task_arithmetic"):
        assert (
            relative(merge_deltas(f"{inner}+core_space", deltas).dense(), merge_deltas(inner, deltas).dense())
            < 1e-8
        )
    turn = orthogonal(12, 3)
    ties = merge_deltas("ties+core_space", deltas).dense()
    turned = merge_deltas("ties+core_space", [LowRank(turn @ each.up, each.down) for each in deltas]).dense()
    assert relative(turned, turn @ ties) < 1e-8


def test_each_modifier_goes_around_what_stands_before_it() -> None:
    deltas = randn(3, 8, 6, seed=11)
    assert relative(merge_deltas("task_arithmetic+isotropize", deltas), merge_deltas("iso_c", deltas)) < 1e-8
    one, other = (merge_deltas(f"tsv+{order}", deltas) for order in ("isotropize+star", "star+isotropize"))
    assert relative(one, other) < 1e-8  # what is before and what is after commute
    assert get("tsv + svc+ star").name == "tsv+svc+star"
    assert get("average+star").fixed_scale and not get("average+star").merges_weights
    assert get("average").merges_weights


@pytest.mark.parametrize(
    ("name", "words"),
    [("tsv+scv", "did you mean 'svc'"), ("tvs+svc", "did you mean 'tsv'"), ("tsv+", "unknown modifier")],
)
def test_an_unknown_part_of_a_name_is_answered_with_the_closest(name: str, words: str) -> None:
    with pytest.raises(MethodError) as caught:
        get(name)
    assert words in str(caught.value)


def test_costs_add_up() -> None:
    plain, around = get("swudi"), get("swudi+svc")
    case: Any = Case(3, 64, 64, plain.validate({}))
    assert around.resources.work(case) > plain.resources.work(case)
    assert around.streaming({}) is None and get("ties+svc").streaming({"keep": 0.2, "trim": "tensor"}) is None
