"""The k-th smallest magnitude of a tensor, found by counting it once in most cases.

The bit pattern of a non-negative float, read as an integer, grows with the float. So a threshold is a bit
pattern, and it is found by counting how many magnitudes lie below it:

1. A sample of the tensor gives a range of bit patterns that very probably holds the threshold.
2. The range is cut into bins. One pass over the tensor counts the magnitudes in each bin, and those below the
   range. The counts say which bin holds the threshold.
3. The threshold is that bin's first bit pattern if every magnitude in the bin is equal to it. This is common:
   differences of bfloat16 values end in zeros. Otherwise the bin is the next range, in a second pass.

If the threshold isn't in the range after all, the next range is all bit patterns, so the result is exact
whatever the sample was.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optmerge.methods._fast.radix import kth_smallest_index
from optmerge.methods._fast.stored import Counts, Drops, StoredDeltas, StoredTensor

SAMPLE, SAMPLED_SHARE = 1 << 16, 64
"""A sample has so many entries, or one in so many of a tensor where that is more. A tensor that isn't larger
than its sample has none."""

BLOCKS = 32
"""Number of places, evenly spaced, that a sample is taken from."""

DEVIATIONS = 4.5
"""Half the width of the first range, in standard deviations of a rank in a random sample."""

BINS = 1 << 16
"""Number of bins that a range is cut into, at most."""


def thresholds(tensor: StoredTensor, keep: float, drops: Drops) -> tuple[float, ...] | None:
    """Each expert's k-th smallest magnitude, k = ⌊(1 − keep)·size⌋; 0 keeps all.

    Args:
        tensor: read as often as necessary.
        keep: fraction kept, in (0, 1].
        drops: masks of the deltas.

    Returns:
        One threshold per expert; None where a value isn't finite.
    """
    bracket = Bracket(tensor.experts, tensor.size, keep)
    finite: list[bool] = []

    def count(deltas: StoredDeltas) -> None:
        finite.append(bracket.count(replace(deltas, drops=drops)))

    if sample_size(tensor.size) and not bracket.done:
        for start, stop in _sample(tensor.size):
            bracket.count(replace(tensor.read(start, stop), drops=drops))
        bracket.expect()
    while not bracket.done:
        tensor.each(count)
        if not all(finite):
            return None
        bracket.narrow()
    return bracket.thresholds


def sample_size(size: int) -> int:
    """Number of entries in the sample of a tensor of so many."""
    sampled = max(SAMPLE, size // SAMPLED_SHARE)
    return sampled if sampled < size else 0


def _sample(size: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) of entries to sample, over the tensor's whole length."""
    block = max(1, sample_size(size) // BLOCKS)
    starts = (round(place * (size - block) / (BLOCKS - 1)) for place in range(BLOCKS))
    return [(start, start + block) for start in starts]


@dataclass(frozen=True)
class _Range:
    """Bit patterns that may be a threshold.

    Args:
        low: the first one.
        width: number of bit patterns.
        shift: each bin holds 1 << shift bit patterns.
        common: first bit pattern of the bin that most sampled values lie in; counted apart from the bins.
    """

    low: int
    width: int
    shift: int
    common: int

    @classmethod
    def of(cls, low: int, width: int, common: int | None = None) -> _Range:
        """The range [low, low + width), in as many bins as there are or fewer."""
        shift = max(0, ((width - 1) // BINS).bit_length())
        return cls(low, width, shift, low if common is None else common)


def _everything() -> _Range:
    return _Range.of(0, 1 << 31)


class Bracket:
    """Finds each expert's threshold from counts.

    `for part in sample: bracket.count(part)`, `bracket.expect()` unless there is no sample; then
    `while not bracket.done: for part in everything: bracket.count(part)`, `bracket.narrow()`.

    Args:
        experts: number of them.
        size: entries in the tensor.
        keep: fraction kept, in (0, 1].
    """

    def __init__(self, experts: int, size: int, keep: float) -> None:
        self._size, self._rank = size, kth_smallest_index(keep, size)
        self._ranges = [_everything()] * experts
        self._found: list[int | None] = [None if self._rank else 0] * experts
        self._counts: list[Counts] = []
        self._lock = threading.Lock()  # slices are counted by several threads

    @property
    def done(self) -> bool:
        """True when every threshold is known."""
        return None not in self._found

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The k-th smallest magnitude of each expert; 0 keeps all."""
        return tuple(np.array(self._found, np.uint32).view(np.float32).tolist())

    def count(self, deltas: StoredDeltas) -> bool:
        """Counts one slice, by several threads at once; returns whether all of the slice is finite."""
        with self._lock:
            counts = self._counts.pop() if self._counts else self._nothing()
        finite = deltas.count_magnitudes(counts)
        with self._lock:
            self._counts.append(counts)
        return finite

    def expect(self) -> None:
        """Called after the sample: sets the ranges in which the thresholds are expected."""
        shift = _everything().shift
        bins, _, _ = self._counted()
        share = self._rank / self._size
        for expert, row in enumerate(bins):
            reached = row.cumsum()
            sampled = int(reached[-1])
            slack = DEVIATIONS * math.sqrt(share * (1 - share) / sampled)
            ranks = (np.array([share - slack, share + slack]) * sampled).clip(1, sampled)
            first, last = np.searchsorted(reached, ranks).tolist()
            common = first + int(row[first : last + 1].argmax())
            self._ranges[expert] = _Range.of(first << shift, (last + 1 - first) << shift, common << shift)

    def narrow(self) -> None:
        """Called after the last slice of a pass: sets the thresholds that are known, and the next ranges."""
        bins, below, loose = self._counted()
        for expert, tried in enumerate(self._ranges):
            left = self._rank - int(below[expert])
            place = int(np.searchsorted(bins[expert].cumsum(), left))
            low = tried.low + (place << tried.shift)
            if left <= 0 or place == BINS:
                self._ranges[expert] = _everything()
            elif loose[expert, place]:
                self._ranges[expert] = _Range.of(low, 1 << tried.shift)
            else:
                self._found[expert], self._ranges[expert] = low, _Range.of(low, 1)

    def _counted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Sums over all threads' counts, which are then dropped.

        Returns:
            (experts, bins) in each bin, (experts,) below the range, (experts, bins) the `loose` marks.
        """
        parts, self._counts = self._counts, []
        bins: NDArray[np.int64] = np.add.reduce([counts.bins for counts in parts], dtype=np.int64)
        outside: NDArray[np.int64] = np.add.reduce([counts.outside for counts in parts])
        for row, each, (_, equal) in zip(bins, self._ranges, outside, strict=True):
            row[(each.common - each.low) >> each.shift] += equal
        return bins, outside[:, 0], np.bitwise_or.reduce([counts.loose for counts in parts])

    def _nothing(self) -> Counts:
        """Fresh counts for the current ranges."""
        shape = (len(self._ranges), BINS)
        return Counts(
            lows=np.array([each.low for each in self._ranges], np.uint32),
            widths=np.array([each.width for each in self._ranges], np.uint32),
            shifts=np.array([each.shift for each in self._ranges], np.uint32),
            common=np.array([each.common for each in self._ranges], np.uint32),
            outside=np.zeros((len(self._ranges), 2), np.int64),
            bins=np.zeros(shape, np.int32),
            loose=np.zeros(shape, np.uint8),
        )
