"""Scales that are chosen from deltas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge import merge_deltas
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.methods import Layout
from optmerge.methods._scales import FACTORS, FAR, AutoRule, Interaction, caution, least_squares, scale_of
from worlds.deltas import factors, randn
from worlds.samples import examples

light = settings(max_examples=examples(8, 100), deadline=None)


def dense(deltas: Tensor) -> list[Delta]:
    return [Dense(each) for each in deltas]


def scale(
    rule: AutoRule, deltas: Tensor, weights: list[float] | None = None, layout: Layout = "matrix"
) -> float:
    """Of the weighted sum of some deltas."""
    weights = weights or [1.0] * len(deltas)
    weighted = [Dense(each * weight) for each, weight in zip(deltas, weights, strict=True)]
    return scale_of(rule, weighted, weights, Dense(sum(each.values for each in weighted)), layout)


def literal(deltas: Tensor, merged: Tensor) -> float:
    """The least-squares scale as it is written."""
    top = bottom = 0.0
    for delta in deltas.double():
        own, shared = delta.T @ delta, delta.T @ merged.double()
        weight = 1 / float(own.square().sum())
        top += weight * float((own * shared).sum())
        bottom += weight * float(shared.square().sum())
    return top / bottom


@light
@given(
    shape=st.sampled_from([(7, 5), (5, 7), (6, 6), (1, 9)]),
    count=st.integers(1, 5),
    seed=st.integers(0, 999),
    rule=st.sampled_from(list(FACTORS)),
)
def test_sums_get_the_least_squares_scale(
    shape: tuple[int, int], count: int, seed: int, rule: AutoRule
) -> None:
    deltas = randn(count, *shape, seed=seed)
    expected = FACTORS[rule] * literal(deltas, deltas.sum(0))
    assert scale(rule, deltas) == pytest.approx(expected, rel=1e-5)


@light
@given(count=st.integers(1, 5), seed=st.integers(0, 999), factor=st.floats(0.01, 100))
def test_a_decorrelated_merge_becomes_as_long_as_all_experts_side_by_side(
    count: int, seed: int, factor: float
) -> None:
    deltas, merged = randn(count, 6, 8, seed=seed), randn(6, 8, seed=seed + 1)
    found = scale_of("decorrelating", dense(deltas * factor), [1.0] * count, Dense(merged), "matrix")
    assert found * float(merged.norm()) == pytest.approx(factor * float(deltas.norm()), rel=1e-5)


@pytest.mark.parametrize("rule", ["decorrelating", "sum", "ties"])
def test_an_expert_that_changes_nothing_or_has_no_weight_doesnt_count(rule: AutoRule) -> None:
    deltas = randn(3, 6, 8, seed=0)
    idle = torch.cat([deltas, torch.zeros(1, 6, 8, dtype=torch.float64)])
    other = torch.cat([deltas, randn(1, 6, 8, seed=9)])
    assert scale(rule, idle) == pytest.approx(scale(rule, deltas))
    assert scale(rule, other, [1, 1, 1, 0]) == pytest.approx(scale(rule, deltas))
    assert scale(rule, other, [1, 1, 1, 1e-3]) == pytest.approx(scale(rule, deltas), rel=0.01)


@pytest.mark.parametrize("rule", ["decorrelating", "sum", "ties"])
def test_one_expert_alone_is_taken_as_it_is_but_for_the_rules_factor(rule: AutoRule) -> None:
    assert scale(rule, randn(1, 6, 8, seed=0)) == pytest.approx(FACTORS.get(rule, 1.0))


@pytest.mark.parametrize("rule", ["decorrelating", "sum"])
def test_factors_give_the_scale_of_their_products(rule: AutoRule) -> None:
    low = [factors(9, 12, rank, seed=rank) for rank in (1, 2, 3)] + [factors(9, 12, 0, seed=0)]
    whole = [Dense(each.dense()) for each in low]
    both = LowRank(torch.cat([each.up for each in low], 1), torch.cat([each.down for each in low]))
    for layout in ("matrix", "transposed"):
        expected = scale_of(rule, whole, [1.0] * 4, Dense(both.dense()), layout)
        assert scale_of(rule, low, [1.0] * 4, both, layout) == pytest.approx(expected, rel=1e-5)
        assert scale_of(rule, low, [1.0] * 4, Dense(both.dense()), layout) == pytest.approx(
            expected, rel=1e-5
        )


def test_vectors_keep_the_mean_and_sums_of_them_become_it() -> None:
    deltas = torch.cat([randn(3, 10, seed=0), torch.zeros(1, 10, dtype=torch.float64)])
    for merged, expected in ((deltas.mean(0), 4 / 3), (deltas.sum(0), 1 / 3)):
        assert scale_of("sum", dense(deltas), [1.0] * 4, Dense(merged), "vector") == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["decorrelating", "sum", "ties", "own"])
@pytest.mark.parametrize("layout", ["matrix", "vector"])
def test_nothing_has_the_scale_one(rule: AutoRule, layout: Layout) -> None:
    nothing = torch.zeros(4, 4)
    assert scale_of(rule, dense(torch.stack([nothing] * 2)), [1.0, 1.0], Dense(nothing), layout) in (
        1.0,
        FACTORS.get(rule),
    )


LAYOUTS: list[tuple[Layout, tuple[int, ...]]] = [
    ("matrix", (40, 24)),
    ("transposed", (24, 40)),
    ("flatten", (40, 6, 2, 2)),
    ("stack", (3, 20, 8)),
    ("transposed_stack", (3, 8, 20)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_slices_give_the_scale_of_the_whole_where_nothing_is_estimated(
    layout: Layout, shape: tuple[int, ...]
) -> None:
    deltas = randn(4, *shape, seed=0)
    looked = Interaction(shape, layout, "w")
    for first in range(0, shape[0], 7):
        part = deltas[:, first : first + 7]
        looked.observe(dense(part), Dense(part.sum(0)), first)
    found = FACTORS["sum"] * least_squares(looked.terms([1.0] * 4))
    assert found == pytest.approx(scale("sum", deltas, layout=layout), rel=1e-5)


def test_a_sketch_is_near_the_scale_of_the_whole() -> None:
    deltas = torch.stack([factors(1024, 512, 20, seed=seed).dense() for seed in range(4)])
    deltas += randn(1024, 512, seed=0)  # what all share
    looked = Interaction((1024, 512), "matrix", "w")
    looked.observe(dense(deltas), Dense(deltas.sum(0)), 0)
    found = FACTORS["sum"] * least_squares(looked.terms([1.0] * 4))
    assert found == pytest.approx(scale("sum", deltas), rel=0.1)


@light
@given(lengths=st.lists(st.floats(0.0, 1e3), max_size=6))
def test_caution_never_makes_a_merge_longer_nor_loses_it(lengths: list[float]) -> None:
    assert 0 < caution(lengths) <= 1
    assert caution([*lengths, 0.0]) == caution(lengths)


def test_even_experts_need_no_caution_and_one_that_went_far_counts_as_the_median() -> None:
    assert caution([1.0, 1.2, FAR, 0.2, 1.0]) == 1.0
    assert caution([1.0, 1.0, 1.0, 1.0, 5.0]) == pytest.approx(math.sqrt(5 / 29))
    near, beyond = caution([1.0, 1.0, 1.0, FAR]), caution([1.0, 1.0, 1.0, FAR * 1.001])
    assert near == pytest.approx(beyond, rel=1e-2)


def test_the_solved_form_of_optmerge_knows_no_unit_and_ends_at_the_minimum() -> None:
    deltas = randn(3, 12, 8, seed=0)
    merged = merge_deltas("optmerge", deltas)
    torch.testing.assert_close(merge_deltas("optmerge", 1000 * deltas), 1000 * merged)
    torch.testing.assert_close(merge_deltas("optmerge", deltas, converged=0.0), deltas.sum(0))
    alone = merge_deltas("optmerge", deltas[:1], start="mean")
    torch.testing.assert_close(alone, deltas[0], atol=1e-6, rtol=1e-6)
