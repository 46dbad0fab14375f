"""The k-th smallest magnitude, mostly in one pass: a sample says where to look, counting settles it exactly.

The bit pattern of a non-negative float, read as an integer, grows with the float. The range where the sample
expects the threshold is cut into bins; below it one counter is enough. Where all values of a bin are its
first (differences of bfloat16 take few values, which end in zeros), or a bin is one bit pattern wide, the
threshold is known; else its bin is the next range. If the sample was misleading, everything is.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optmerge.methods._fast.radix import kth_smallest_index
from optmerge.methods._fast.stored import Counts, StoredDeltas

SAMPLE, SAMPLED_SHARE = 1 << 16, 64
"""How many entries are looked at beforehand, or one in how many of a large tensor; none of a smaller one."""

DEVIATIONS = 4.5
"""How far the sample may be off, in standard deviations of a rank in a random sample."""

BINS = 1 << 16


def sample_size(size: int) -> int:
    """How many of a tensor's entries to look at beforehand."""
    sampled = max(SAMPLE, size // SAMPLED_SHARE)
    return sampled if sampled < size else 0


@dataclass(frozen=True)
class _Range:
    """Bit patterns [low, low + width), in bins of 1 << shift; `common`, a bin's first, many values have."""

    low: int
    width: int
    shift: int
    common: int

    @classmethod
    def of(cls, low: int, width: int, common: int | None = None) -> _Range:
        """In as many bins as there are, or fewer."""
        shift = max(0, ((width - 1) // BINS).bit_length())
        return cls(low, width, shift, low if common is None else common)


def _everything() -> _Range:
    return _Range.of(0, 1 << 31)


class Bracket:
    """Finds each expert's threshold.

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
        """Counts one slice; whether all of it is finite."""
        with self._lock:
            counts = self._counts.pop() if self._counts else self._nothing()
        finite = deltas.count_magnitudes(counts)
        with self._lock:
            self._counts.append(counts)
        return finite

    def expect(self) -> None:
        """Called after the sample: where to look for the thresholds."""
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
        """Called after the last slice: what was counted gives the thresholds, or ranges to count next."""
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
        """What all threads counted together, in bins, below them, and loosely; it is forgotten."""
        parts, self._counts = self._counts, []
        bins: NDArray[np.int64] = np.add.reduce([counts.bins for counts in parts], dtype=np.int64)
        outside: NDArray[np.int64] = np.add.reduce([counts.outside for counts in parts])
        for row, each, (_, equal) in zip(bins, self._ranges, outside, strict=True):
            row[(each.common - each.low) >> each.shift] += equal
        return bins, outside[:, 0], np.bitwise_or.reduce([counts.loose for counts in parts])

    def _nothing(self) -> Counts:
        """Nothing counted yet."""
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
