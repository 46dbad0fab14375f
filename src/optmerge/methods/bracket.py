"""The k-th smallest magnitude in one pass: a sample says where to look, one count settles it exactly.

The bit pattern of a non-negative float, read as an integer, grows with the float. Around the sample's
estimate every single bit pattern gets a counter; below it one counter is enough. Where the estimate misses,
the two passes of `MagnitudeSelection` find what this doesn't.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optmerge.methods.selection import kth_smallest_index
from optmerge.methods.stored import StoredDeltas

SAMPLE = 1 << 16
"""Entries that are looked at beforehand; a tensor of no more is simply selected from."""

WIDTH = 1 << 18
"""Counters per expert."""

DEVIATIONS = 4.5
"""How far the sample may be off, in standard deviations of a rank in a random sample."""


class Bracket:
    """Counters around where each expert's threshold is expected.

    Args:
        sample: (experts, sampled) magnitudes as bits; all of the tensor's where it has no more than `SAMPLE`.
        size: entries in the tensor.
        keep: fraction kept, in (0, 1).
    """

    def __init__(self, sample: NDArray[np.uint32], size: int, keep: float) -> None:
        self._rank = kth_smallest_index(keep, size)
        experts, sampled = sample.shape
        self.complete = sampled == size
        self._exact: tuple[int, ...] = ()
        if self.complete:
            index = max(self._rank - 1, 0)
            self._exact = tuple(int(np.partition(row, index)[index]) for row in sample)
            return
        share = self._rank / size
        slack = DEVIATIONS * math.sqrt(share * (1 - share) / sampled) + 1 / sampled
        ends = [min(max(int(place * sampled), 0), sampled - 1) for place in (share - slack, share + slack)]
        found = np.stack([np.partition(row, ends)[ends] for row in sample]).astype(np.int64)
        widest = int((found[:, 1] - found[:, 0]).max()) + 1
        self._width = min(WIDTH, widest)
        self._lows = np.maximum(found.sum(axis=1) // 2 - self._width // 2, 0).astype(np.uint32)
        self._below = np.zeros(experts, np.int64)
        self._within: list[NDArray[np.int32]] = []
        self._idle: list[NDArray[np.int32]] = []
        self._lock = threading.Lock()

    def count(self, deltas: StoredDeltas) -> bool:
        """Counts one slice, by several threads at once if need be; whether all of it is finite."""
        below = np.zeros_like(self._below)
        with self._lock:
            within = self._idle.pop() if self._idle else None
            if within is None:
                within = np.zeros((len(below), self._width), np.int32)
                self._within.append(within)
        finite = deltas.count_magnitudes(self._lows, below, within)
        with self._lock:
            self._idle.append(within)
            self._below += below
        return finite

    def thresholds(self) -> tuple[float, ...] | None:
        """The k-th smallest magnitude of each expert, 0 where all is kept; None where one wasn't counted."""
        if self._rank == 0:
            return (0.0,) * len(self._exact or self._lows)
        if self.complete:
            return _floats(self._exact)
        found = []
        for low, below, *counts in zip(self._lows, self._below, *self._within, strict=True):
            reached = np.sum(counts, axis=0, dtype=np.int64).cumsum()
            offset = int(np.searchsorted(reached, self._rank - below))
            if below >= self._rank or offset == self._width:
                return None
            found.append(int(low) + offset)
        return _floats(found)


def _floats(bits: Sequence[int]) -> tuple[float, ...]:
    return tuple(np.array(bits, np.uint32).view(np.float32).tolist())
