"""Random deltas for the property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from optmerge.deltas import Dense, LowRank

SHAPES = [(1, 1), (1, 7), (7, 1), (3, 11), (11, 3), (6, 6), (5, 8), (12, 9)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def orthogonal(size: int, seed: int) -> Tensor:
    q: Tensor = torch.linalg.qr(randn(size, size, seed=seed))[0]
    return q


def factors(m: int, n: int, rank: int, seed: int, full_shape: tuple[int, ...] | None = None) -> LowRank:
    return LowRank(randn(m, rank, seed=seed), randn(rank, n, seed=seed + 1), full_shape)


@st.composite
def dense_deltas(draw: st.DrawFn, least: int = 1, most: int = 5) -> Tensor:
    """(N, m, n) float64: full rank, rank deficient or zero experts, of sizes apart by orders of magnitude."""
    m, n = draw(st.sampled_from(SHAPES))
    count, seed = draw(st.integers(least, most)), draw(st.integers(0, 2**20))
    kinds = draw(
        st.lists(st.sampled_from(["full", "full", "deficient", "zero"]), min_size=count, max_size=count)
    )
    deltas = []
    for index, kind in enumerate(kinds):
        rank = {"full": min(m, n), "deficient": max(1, min(m, n) // 3), "zero": 0}[kind]
        delta = factors(m, n, rank, seed + 10 * index).dense()
        deltas.append(delta * 10.0 ** draw(st.integers(-3, 0)))
    return torch.stack(deltas)


@st.composite
def low_rank_deltas(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[LowRank]:
    """N factored deltas whose ranks may be 0, or add up to more than min(m, n)."""
    m, n = draw(st.sampled_from(SHAPES))
    seed = draw(st.integers(0, 2**20))
    ranks = draw(st.lists(st.integers(0, 3), min_size=least, max_size=most))
    return [factors(m, n, rank, seed + 10 * index) for index, rank in enumerate(ranks)]


def materialised(deltas: list[LowRank]) -> list[Dense]:
    return [Dense(delta.dense()) for delta in deltas]


def relative(found: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """‖found − expected‖/‖expected‖, or over a scale; 0 where both are zero."""
    error = float((found - expected).norm())
    return 0.0 if error == 0 else error / (float(expected.norm()) if scale is None else scale)
