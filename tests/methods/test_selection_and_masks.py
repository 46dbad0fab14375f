from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge.methods._fast import radix
from optmerge.methods._fast.masks import DropKey, dropped, hashes
from optmerge.methods._fast.radix import MagnitudeSelection, magnitude_threshold
from worlds.deltas import randn

light = settings(max_examples=30, deadline=None)


def kth(values: Tensor, percent: int) -> float:
    k = (100 - percent) * values.numel() // 100
    return float(values.abs().flatten().kthvalue(k).values) if k else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@light
@given(size=st.integers(1, 400), percent=st.integers(1, 100), seed=st.integers(0, 999), ties=st.booleans())
def test_the_threshold_is_the_kth_smallest_magnitude(
    dtype: torch.dtype, size: int, percent: int, seed: int, ties: bool
) -> None:
    values = randn(size, seed=seed, dtype=dtype)
    values = torch.round(values) if ties else values * 10.0 ** (seed % 60 - 30)
    assert magnitude_threshold(values, percent / 100) == kth(values, percent)


@light
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any), st.integers(1, 100), st.integers(0, 99)
)
def test_pieces_give_the_threshold_of_the_whole(sizes: list[int], percent: int, seed: int) -> None:
    whole = randn(sum(sizes), seed=seed, dtype=torch.float32)
    selection = MagnitudeSelection(percent / 100)
    passes = 0
    while selection.begin_pass():
        for piece in whole.split(sizes):
            selection.observe(piece)
        selection.end_pass()
        passes += 1
    assert selection.threshold == kth(whole, percent)
    assert passes <= 2


def test_subnormal_huge_negative_and_zero_entries_are_ordered() -> None:
    values = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 3e38, -1.0, 1.0000001])
    for percent in range(1, 101):
        assert magnitude_threshold(values, percent / 100) == kth(values, percent)


def test_strided_tensors_are_selected_from_like_any_other() -> None:
    values = randn(20, 30, seed=0, dtype=torch.float32).T
    assert magnitude_threshold(values, 0.2) == kth(values.contiguous(), 20)


def test_the_compiled_count_is_that_of_the_tensor_code() -> None:
    values = randn(3 * radix.BINS, seed=1, dtype=torch.float32)
    for each in (values, torch.round(values * 8) / 8):
        first = radix._count(each, 16, None)
        assert np.array_equal(radix._count_compiled(each, 16, None), first)
        prefix = int(first.argmax())
        second = radix._count(each, 0, prefix)
        assert second.sum() and np.array_equal(radix._count_compiled(each, 0, prefix), second)


def mask(
    shape: tuple[int, ...] = (200, 500),
    drop: float = 0.5,
    *,
    seed: int = 0,
    tensor: str = "w",
    expert: str = "a",
    start: int = 0,
) -> Tensor:
    return dropped(torch.ones(shape), drop, DropKey.of(seed, tensor, expert), start) != 0


@light
@given(start=st.integers(0, 999), size=st.integers(0, 200))
def test_a_slice_of_a_mask_is_the_mask_of_the_slice(start: int, size: int) -> None:
    whole = mask((1200,))
    assert torch.equal(mask((size,), start=start), whole[start : start + size])


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.9])
def test_the_share_that_survives_is_binomial(drop: float) -> None:
    size = 100_000
    survived = int(mask(drop=drop).sum())
    deviation = math.sqrt(size * drop * (1 - drop))
    assert abs(survived - size * (1 - drop)) <= 4 * deviation


@pytest.mark.parametrize("changed", [{"seed": 1}, {"tensor": "v"}, {"expert": "b"}, {"start": 1}])
def test_masks_of_another_key_or_place_are_uncorrelated(changed: dict[str, object]) -> None:
    first, second = mask().float() - 0.5, mask(**changed).float() - 0.5
    correlation = 4 * float((first * second).mean())
    assert abs(correlation) <= 4 / math.sqrt(first.numel())


def test_a_mask_never_changes_between_versions() -> None:
    """Published merges must stay reproducible, so these bits are part of the format."""
    bits = "".join(str(int(bit)) for bit in mask((32,)))
    assert bits == "11010011100011111011000111111101"


@light
@given(
    size=st.integers(0, 300), drop=st.floats(0, 0.99), start=st.integers(0, 2**40), seed=st.integers(0, 99)
)
def test_the_compiled_loop_drops_what_the_tensor_code_drops(
    size: int, drop: float, start: int, seed: int
) -> None:
    values, key = randn(size, seed=seed, dtype=torch.float32), DropKey.of(seed, "w", "a")
    survives = hashes(size, key, start) >= round(drop * 2**16)
    assert torch.equal(
        dropped(values, drop, key, start), torch.where(survives, values * (1 / (1 - drop)), 0.0)
    )
    doubled = dropped(values.double(), drop, key, start)
    assert torch.equal(doubled != 0, survives & (values != 0))


def test_positions_beyond_four_thousand_million_are_distinct() -> None:
    far = 5 * 2**33
    assert not torch.equal(mask((64,), start=far), mask((64,)))
