"""Exact order statistics of magnitudes over data that is seen in pieces, without sorting or storing it.

The bit pattern of a non-negative float, read as an integer, grows with the float. A radix selection on it,
16 bits a pass, finds the k-th smallest magnitude of any number of slices in two passes (float32) or four
(float64) with a histogram of 65,536 counters.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.deltas import pieces
from optmerge.methods._fast.kernels import compiled_for, count_leading, count_trailing
from optmerge.methods._parameters import share

DIGIT_BITS = 16
BINS = 1 << DIGIT_BITS
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_smallest_index(keep: float, size: int) -> int:
    """k = ⌊(1 − keep)·size⌋: the entries not below the k-th smallest are kept; 0 keeps all."""
    return int(size - share(keep, size))


class MagnitudeSelection:
    """Finds the magnitude of which a fraction `keep` of all entries is not below.

    Feed every slice in each pass: `while selection.begin_pass(): for x in slices: selection.observe(x);
    selection.end_pass()`.

    Args:
        keep: fraction kept, in (0, 1].
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.size = 0
        self._dtype: torch.dtype | None = None
        self._prefix = 0
        self._remaining: int | None = None
        self._shift = 0
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._lock = threading.Lock()  # slices are observed by several threads

    @property
    def done(self) -> bool:
        """True when the threshold is known."""
        return self._remaining is not None and (self._shift == 0 or self._remaining == 0)

    def begin_pass(self) -> bool:
        """True when one more pass is needed."""
        if self.done or self.keep == 1:
            return False
        self._counts.fill(0)
        if self._remaining is not None:
            self._shift -= DIGIT_BITS
        return True

    def observe(self, values: Tensor) -> None:
        """Counts one slice; the sum of all slices' sizes must be the same in every pass."""
        first = self._remaining is None
        shift = torch.finfo(values.dtype).bits - DIGIT_BITS if first else self._shift
        count = _count_compiled if compiled_for(values) and values.numel() >= BINS else _count
        for piece in pieces(values):
            counts = count(piece, shift, None if first else self._prefix)
            with self._lock:
                self._dtype, self._shift = values.dtype, shift
                self.size += piece.numel() if first else 0
                self._counts += counts

    def end_pass(self) -> None:
        """Narrows the threshold down by one digit."""
        if self._remaining is None:
            self._remaining = kth_smallest_index(self.keep, self.size)
            if self._remaining == 0:
                return
        cumulative = self._counts.cumsum()
        digit = int(np.searchsorted(cumulative, self._remaining))
        self._remaining -= int(cumulative[digit] - self._counts[digit])
        self._prefix = (self._prefix << DIGIT_BITS) | digit

    @property
    def threshold(self) -> float:
        """The k-th smallest magnitude; 0 keeps all."""
        if self.keep == 1 or not self._remaining or self._dtype is None:
            return 0.0
        bits = torch.tensor([self._prefix], dtype=_INTEGERS[self._dtype])
        return float(bits.view(self._dtype)[0])


def magnitude_threshold(values: Tensor, keep: float) -> float:
    """The magnitude of which a fraction `keep` of the entries of one tensor is not below."""
    selection = MagnitudeSelection(keep)
    while selection.begin_pass():
        selection.observe(values)
        selection.end_pass()
    return selection.threshold


def _count(values: Tensor, shift: int, prefix: int | None) -> NDArray[np.int64]:
    """How often each 16-bit digit at `shift` occurs, among the values that begin with `prefix`."""
    bits = values.abs().view(_INTEGERS[values.dtype])
    if prefix is not None:
        bits = bits[(bits >> (shift + DIGIT_BITS)) == prefix]
    digits = (bits >> shift) & (BINS - 1)
    counts: NDArray[np.int64] = torch.bincount(digits, minlength=BINS).cpu().numpy()
    return counts


def _count_compiled(values: Tensor, shift: int, prefix: int | None) -> NDArray[np.int64]:
    """The same for float32 on the CPU, in one pass."""
    bits = values.contiguous().numpy().view(np.uint32)
    counts = np.zeros(BINS, dtype=np.int64)
    if prefix is None:
        count_leading(bits, np.empty(bits.size, np.uint16), counts)
    else:
        count_trailing(bits, np.uint32(prefix), np.empty(bits.size, np.uint32), counts)
    return counts
