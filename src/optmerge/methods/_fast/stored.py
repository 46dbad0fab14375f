"""Elementwise methods on slices of experts' tensors as they are stored, without float32 copies of them.

What average, task arithmetic, DARE and TIES do to each entry, said as data (`Entrywise`), and the compiled
loops that do it (`StoredDeltas`), bit for bit as the methods' own functions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optmerge.methods._fast import kernels
from optmerge.methods._fast.masks import DropKey, drop_limit, gain

Rows = NDArray[Any]
"""(rows, size): bfloat16 seen as uint16, or float32."""


@dataclass(frozen=True)
class Entrywise:
    """What a method does to each entry, where that is all it does.

    Args:
        divisor: d of Σ τᵢ/d; of no meaning for a mean of agreeing entries.
        drop: DARE's probability of dropping an entry, before anything else.
        seed: of the drops.
        keep: TIES' fraction kept by magnitude; None for a sum.
    """

    divisor: float = 1.0
    drop: float = 0.0
    seed: int = 0
    keep: float | None = None


@dataclass(frozen=True)
class Drops:
    """DARE's masks for the experts of one tensor; `keys` is (experts, 2), (0, 2) where nothing is dropped."""

    keys: NDArray[np.uint32]
    limit: np.uint16
    gain: np.float32

    @classmethod
    def of(cls, rule: Entrywise, tensor: str, experts: Sequence[str]) -> Drops:
        """The drops of a rule for one tensor."""
        keys = [DropKey.of(rule.seed, tensor, expert) for expert in experts]
        words = [(key.first, key.second) for key in keys] if rule.drop else []
        table = np.array(words, np.uint32).reshape(-1, 2)
        return cls(table, np.uint16(drop_limit(rule.drop)), np.float32(gain(rule.drop)))


NO_DROPS = Drops(np.zeros((0, 2), np.uint32), np.uint16(0), np.float32(1))


@dataclass(frozen=True)
class Counts:
    """How many magnitudes of each expert are below, and in each bin of, its range of bit patterns.

    Args:
        lows: (experts,) where the ranges begin.
        widths: (experts,) how many bit patterns they hold.
        shifts: (experts,); a bin holds 1 << shift bit patterns.
        common: (experts,) a magnitude that is counted by itself.
        outside: (experts, 2) how many are below the range, and how many are the common one.
        bins: (experts, bins) how many others are in each bin.
        loose: (experts, bins) 1 where one of them isn't the bin's first bit pattern.
    """

    lows: NDArray[np.uint32]
    widths: NDArray[np.uint32]
    shifts: NDArray[np.uint32]
    common: NDArray[np.uint32]
    outside: NDArray[np.int64]
    bins: NDArray[np.int32]
    loose: NDArray[np.uint8]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """In the order the loop takes them."""
        return self.lows, self.widths, self.shifts, self.common, self.outside, self.bins, self.loose


@dataclass(frozen=True)
class StoredDeltas:
    """One slice of every expert's delta, in the form it is stored in.

    Args:
        rows: the base's slice and then the experts', or the deltas themselves.
        from_base: the first row is the base's.
        factors: (experts,) float32, what each delta is multiplied by.
        drops: applied to the products.
        start: flat index of the slice in its tensor.
    """

    rows: Rows
    from_base: bool
    factors: NDArray[np.float32]
    drops: Drops = NO_DROPS
    start: int = 0

    def _run(self, loop: Any, *rest: Any) -> Any:
        """Calls a compiled loop with what they all begin with, and the rest."""
        drops = self.drops
        first = (self.rows, self.from_base, self.factors, drops.keys, drops.limit, drops.gain, self.start)
        return loop(*first, *rest)

    def sum(self, divisor: float, scale: float, out: NDArray[Any]) -> bool:
        """W₀ + scale·Σ τᵢ/divisor, or Σ/divisor without a base, into `out`; whether all is finite."""
        return bool(self._run(kernels.sum_deltas, np.float32(divisor), np.float32(scale), out))

    def count_magnitudes(self, counts: Counts) -> bool:
        """Adds to the counts; whether all is finite."""
        return bool(self._run(kernels.count_magnitudes, *counts.arrays))

    def sum_of_signs(self, thresholds: Sequence[float]) -> int:
        """How many entries of Σ τ̂ᵢ are positive, less how many are negative."""
        return int(self._run(kernels.trimmed_sum_of_signs, np.array(thresholds, np.float32)))

    def mean_of_agreeing(
        self, thresholds: Sequence[float], majority: float, scale: float, out: NDArray[Any]
    ) -> bool:
        """W₀ + scale·(TIES' mean), or that mean without a base, into `out`; whether all is finite."""
        least = np.array(thresholds, np.float32)
        return bool(self._run(kernels.mean_of_agreeing, least, np.float32(majority), np.float32(scale), out))
