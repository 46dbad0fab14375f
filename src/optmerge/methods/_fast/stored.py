"""One slice of every expert's delta as it is stored, and the compiled loops on it.

A slice is never copied to float32 as a whole: the loops convert a few kilobytes at a time. `CompiledMerge` is
what the engine asks of a method that can merge this way; `elementwise.py` has the ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optmerge.methods._context import Context
from optmerge.methods._fast import kernels
from optmerge.methods._fast.masks import DropKey, drop_limit, gain


@dataclass(frozen=True)
class Drops:
    """DARE's masks for the experts of one tensor.

    Args:
        keys: (experts, 2), the hash's two keys of each expert; (0, 2) where nothing is dropped.
        limit: an entry whose 16-bit hash is below it is dropped.
        gain: what the other entries are multiplied by, 1/(1 − drop).
    """

    keys: NDArray[np.uint32]
    limit: np.uint16
    gain: np.float32


NO_DROPS = Drops(np.zeros((0, 2), np.uint32), np.uint16(0), np.float32(1))


@lru_cache(maxsize=256)  # asked for every slice of a tensor
def drops_of(drop: float, seed: int, tensor: str, experts: tuple[str, ...]) -> Drops:
    """DARE's masks for one tensor.

    Args:
        drop: probability of dropping an entry, in [0, 1).
        seed: what all masks begin with.
        tensor: name of the tensor.
        experts: names of the experts.
    """
    if not drop:
        return NO_DROPS
    keys = [DropKey.of(seed, tensor, expert) for expert in experts]
    table = np.array([(key.first, key.second) for key in keys], np.uint32)
    return Drops(table, np.uint16(drop_limit(drop)), np.float32(gain(drop)))


@dataclass(frozen=True)
class Counts:
    """How many magnitudes of each expert lie below its range of bit patterns, and in each bin of the range.

    Args:
        lows: (experts,) first bit pattern of each range.
        widths: (experts,) number of bit patterns in each range.
        shifts: (experts,) each bin of a range holds 1 << shift bit patterns.
        common: (experts,) a magnitude that is counted apart from the bins.
        outside: (experts, 2) number of magnitudes below the range, number equal to the common one.
        bins: (experts, bins) number of other magnitudes in each bin.
        loose: (experts, bins) 1 where a magnitude in the bin isn't the bin's first bit pattern, 0 elsewhere.
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
        """The arrays in the order that the compiled loop takes them."""
        return self.lows, self.widths, self.shifts, self.common, self.outside, self.bins, self.loose


@dataclass(frozen=True)
class StoredDeltas:
    """One slice of every expert's delta, in the form it is stored in.

    Args:
        rows: (experts + 1, size) the base's slice and then the experts'; (experts, size) the deltas
            themselves without a base. float32, or bfloat16 seen as uint16.
        from_base: whether the first row is the base's.
        factors: (experts,) float32, what each delta is multiplied by.
        drops: masks that are applied to the products.
        start: flat index, in the whole tensor, of the slice's first entry.
    """

    rows: NDArray[Any]
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


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of every input, read when it is asked for.

    Args:
        size: number of entries.
        experts: number of experts.
        read: (start, stop) → entries [start, stop) of every input; valid until the same thread's next.
        each: calls an action with slices that together are the tensor, maybe on several threads at once.
    """

    size: int
    experts: int
    read: Callable[[int, int], StoredDeltas]
    each: Callable[[Callable[[StoredDeltas], None]], None]


class CompiledMerge(Protocol):
    """A method on slices as they are stored: the bits that its function gives, several times faster."""

    def prepare(self, tensor: StoredTensor, context: Context) -> Context | None:
        """Looks at a whole tensor before its first slice is merged.

        Args:
            tensor: not merged yet.
            context: names of the tensor and the experts, and what a survey of the whole model found.

        Returns:
            The context with what must be known, as the method's own survey would have found it; None where a
            value isn't finite.
        """

    def merge(self, deltas: StoredDeltas, context: Context, scale: float, out: NDArray[Any]) -> bool:
        """Merges one slice; called by several threads at once.

        Args:
            deltas: the slice.
            context: what `prepare` returned for its tensor.
            scale: factor on the merged delta.
            out: (size,) becomes W₀ + scale·M, or M where the deltas come without a base. float32, or bfloat16
                seen as uint16.

        Returns:
            Whether every input and output is finite; `out` is of no use otherwise.
        """
