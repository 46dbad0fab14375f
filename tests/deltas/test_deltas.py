from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge.deltas import (
    Delta,
    Dense,
    FactorSpace,
    LowRank,
    as_deltas,
    linear_combination,
    mean,
    zero_like,
)


def low_rank(m: int, n: int, rank: int, seed: int = 0, full_shape: tuple[int, ...] | None = None) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    down = torch.randn(rank, n, generator=generator, dtype=torch.float64)
    return LowRank(up, down, full_shape)


def test_the_squared_norm_of_factors_is_that_of_their_product() -> None:
    delta = low_rank(7, 5, 3)
    assert delta.squared_norm() == pytest.approx(float(delta.dense().square().sum()), rel=1e-12)
    assert low_rank(7, 5, 0).squared_norm() == 0


def test_a_squared_norm_adds_up_in_float64_whatever_the_size() -> None:
    values = torch.full((3, 1 << 20), 0.1)
    assert Dense(values).squared_norm() == pytest.approx(float(values[0, 0]) ** 2 * values.numel(), rel=1e-10)


def test_a_delta_is_the_same_object_when_nothing_changes() -> None:
    for delta in (Dense(torch.ones(2, 2)), low_rank(3, 3, 1)):
        assert delta.scaled(1) is delta
        assert delta.to(delta.dtype) is delta


def test_half_precision_and_integers_are_raised_to_float32_and_float64_is_kept() -> None:
    half = [torch.ones(2, 2, dtype=torch.bfloat16), Dense(torch.ones(2, 2, dtype=torch.float16))]
    factors = LowRank(torch.ones(2, 1, dtype=torch.float16), torch.ones(1, 2, dtype=torch.float16))
    assert {delta.dtype for delta in as_deltas([*half, factors, torch.ones(2, 2, dtype=torch.int64)])} == {
        torch.float32
    }
    assert as_deltas(torch.ones(1, 2, 2, dtype=torch.float64))[0].dtype == torch.float64


def test_deltas_of_different_types_become_the_widest() -> None:
    mixed = as_deltas([torch.ones(3, 4), low_rank(3, 4, 1)])
    assert {delta.dtype for delta in mixed} == {torch.float64}


def test_a_combination_of_factors_is_factors_and_of_anything_else_is_dense() -> None:
    first, second = low_rank(4, 6, 2, 1), low_rank(4, 6, 1, 2)
    both = linear_combination([first, second], [2, -1])
    assert isinstance(both, LowRank)
    assert both.rank == 3
    mixed = linear_combination([first, Dense(second.dense())], [2, -1])
    assert isinstance(mixed, Dense)
    torch.testing.assert_close(both.dense(), mixed.dense())


class Unseen(LowRank):
    def dense(self) -> Tensor:
        raise AssertionError("the product was formed")


def test_a_mixed_combination_adds_factors_without_forming_their_product() -> None:
    factors = low_rank(4, 6, 2)
    unseen = Unseen(factors.up, factors.down)
    total = linear_combination([unseen, Dense(torch.ones(4, 6, dtype=torch.float64))], [1, 1])
    torch.testing.assert_close(total.dense(), factors.dense() + 1)


def test_combinations_keep_the_shape_of_convolutions() -> None:
    first, second = low_rank(4, 6, 2, 1, (4, 3, 2)), low_rank(4, 6, 1, 2, (4, 3, 2))
    expected = first.dense() + second.dense()
    assert expected.shape == (4, 3, 2)
    for deltas in ([first, second], [first, Dense(second.dense())]):
        torch.testing.assert_close(linear_combination(deltas, [1, 1]).dense(), expected)
    assert zero_like([first]).shape == (4, 3, 2)
    assert not zero_like([first]).dense().any()


def test_the_mean_divides_the_sum_as_published_code_does() -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean(as_deltas(values)).dense(), (values[0] + values[1] + values[2]) / 3)


def test_a_combination_shares_no_memory_with_its_deltas() -> None:
    for delta in (Dense(torch.ones(2, 2)), low_rank(2, 2, 1)):
        deltas: list[Delta] = [delta]
        before = delta.dense().clone()
        linear_combination(deltas, [1]).dense().zero_()
        torch.testing.assert_close(delta.dense(), before)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0)
)
def test_a_factor_space_holds_every_delta(m: int, n: int, ranks: list[int], seed: int) -> None:
    deltas = [low_rank(m, n, rank, seed % 2**31 + index) for index, rank in enumerate(ranks)]
    space = FactorSpace.of(deltas)
    for delta, core in zip(deltas, space.cores, strict=True):
        torch.testing.assert_close(space.expand(core, torch.float64).dense(), delta.dense())
    identity = torch.eye(space.rows.shape[1], dtype=torch.float64)
    torch.testing.assert_close(space.rows.T @ space.rows, identity)
