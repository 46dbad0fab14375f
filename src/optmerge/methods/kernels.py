"""Compiled loops for what torch can't fuse: one pass over a slice that lies in cache, no temporaries.

They work in place on flat arrays, release the interpreter lock, and give bit for bit what the torch code
they stand in for gives: the tests compare them. The compiled code is cached on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor


def compiled_for(values: Tensor) -> bool:
    """Whether the loops here can take a tensor; others go through torch."""
    return values.dtype == torch.float32 and values.device.type == "cpu"


MAGNITUDE = np.uint32(0x7FFFFFFF)
LANES = 16


@njit(nogil=True, cache=True)
def count_leading(bits: Any, scratch: Any, counts: Any) -> None:
    """Adds to `counts` (≥ 32768,) int64 how often each upper half of magnitudes' bits occurs.

    `bits` are float32 seen as uint32, `scratch` is uint16 of their size. Four histograms, since successive
    values often fall into one bin and would wait for each other.
    """
    for i in range(bits.size):
        scratch[i] = (bits[i] & MAGNITUDE) >> np.uint32(16)
    parts = np.zeros((4, 1 << 15), np.int32)
    whole = bits.size - bits.size % 4
    for i in range(0, whole, 4):
        parts[0, scratch[i]] += 1
        parts[1, scratch[i + 1]] += 1
        parts[2, scratch[i + 2]] += 1
        parts[3, scratch[i + 3]] += 1
    for i in range(whole, bits.size):
        parts[0, scratch[i]] += 1
    for digit in range(1 << 15):
        counts[digit] += parts[0, digit] + parts[1, digit] + parts[2, digit] + parts[3, digit]


@njit(nogil=True, cache=True)
def count_trailing(bits: Any, prefix: Any, scratch: Any, counts: Any) -> None:
    """Adds to `counts` (65536,) how often each lower half occurs where the upper half is `prefix` (uint32).

    About one value in a hundred matches; blocks without one are passed over at vector speed. `scratch` is
    uint32, of the size of the values.
    """
    low = prefix << np.uint32(16)
    whole = bits.size - bits.size % LANES
    for block in range(0, whole, LANES):
        found = np.uint32(0)
        for i in range(block, block + LANES):
            scratch[i] = (bits[i] & MAGNITUDE) - low
            found += np.uint32(scratch[i] < np.uint32(65536))
        if found:
            for i in range(block, block + LANES):
                if scratch[i] < np.uint32(65536):
                    counts[scratch[i]] += 1
    for i in range(whole, bits.size):
        digit = (bits[i] & MAGNITUDE) - low
        if digit < np.uint32(65536):
            counts[digit] += 1


@njit(nogil=True, cache=True)
def add_kept(delta: Any, least: Any, total: Any) -> None:
    """Adds the entries of at least `least` in magnitude."""
    for i in range(delta.size):
        total[i] += delta[i] if abs(delta[i]) >= least else np.float32(0)


@njit(nogil=True, cache=True)
def add_trimmed(delta: Any, least: Any, total: Any, positive: Any, negative: Any, signs: Any) -> None:
    """One expert's part of TIES: entries of at least `least` in magnitude, summed in all and by sign.

    `signs` (2, size) counts the positive and the negative ones.
    """
    zero = np.float32(0)
    for i in range(delta.size):
        value = delta[i] if abs(delta[i]) >= least else zero
        total[i] += value
        positive[i] += max(value, zero)
        negative[i] += min(value, zero)
        signs[0, i] += np.float32(value > zero)
        signs[1, i] += np.float32(value < zero)


@njit(nogil=True, cache=True)
def mean_of_agreeing(total: Any, positive: Any, negative: Any, signs: Any, majority: Any, out: Any) -> None:
    """The end of TIES: the mean of the entries with the elected sign, `majority` where the sum is zero."""
    one = np.float32(1)
    zero = np.float32(0)
    for i in range(total.size):
        elected = total[i] if total[i] != zero else majority
        up = positive[i] / max(signs[0, i], one)
        down = negative[i] / max(signs[1, i], one)
        out[i] = up if elected > zero else (down if elected < zero else zero)


@njit(nogil=True, cache=True)
def sum_of_signs(total: Any) -> int:
    """How many entries are positive, less how many are negative."""
    count = 0
    for i in range(total.size):
        count += int(total[i] > 0) - int(total[i] < 0)
    return count


@njit(nogil=True, cache=True)
def drop_entries(delta: Any, first_key: Any, second_key: Any, start: int, least: Any, divisor: Any) -> None:
    """DARE in place: entries whose hash is below `least` become 0, the others are divided by `divisor`.

    Keys and `least` are uint32, `divisor` float32. Numba computes in 64 bits, hence the casts.
    """
    for i in range(delta.size):
        position = np.uint64(start + i)
        state = np.uint32(np.uint32(position) * np.uint32(0x9E3779B9) + first_key)
        state ^= np.uint32((position >> np.uint64(32)) * np.uint64(0x85EBCA6B))
        state = np.uint32((state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        state = np.uint32((state ^ (state >> np.uint32(13)) ^ second_key) * np.uint32(0xC2B2AE35))
        state = np.uint32((state ^ (state >> np.uint32(16))) * np.uint32(0x27D4EB2F))
        state ^= state >> np.uint32(15)
        delta[i] = delta[i] / divisor if state >= least else np.float32(0)


@njit(nogil=True, cache=True)
def widen(stored: Any, bits: Any) -> bool:
    """bfloat16 (as uint16) to float32 (as uint32); whether all of it is finite."""
    largest = np.uint16(0)
    for i in range(stored.size):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)
        largest = max(largest, stored[i] & np.uint16(0x7FFF))
    return bool(largest < np.uint16(0x7F80))


@njit(nogil=True, cache=True)
def narrow(bits: Any, stored: Any) -> bool:
    """float32 (as uint32) to bfloat16 (as uint16), to nearest even; whether all of it is finite."""
    largest = np.uint16(0)
    for i in range(bits.size):
        value = bits[i]
        rounded = value + np.uint32(0x7FFF) + ((value >> np.uint32(16)) & np.uint32(1))
        stored[i] = np.uint16(rounded >> np.uint32(16))
        largest = max(largest, stored[i] & np.uint16(0x7FFF))
    return bool(largest < np.uint16(0x7F80))


@njit(nogil=True, cache=True)
def sum_stored(
    stored: Any, factors: Any, from_base: bool, divisor: Any, scale: Any, work: Any, bits: Any, out: Any
) -> bool:
    """A linear merge of one slice of bfloat16 tensors: read, subtract, sum, scale, add and round in one go.

    Row 0 of `stored` (1 + N, size) uint16 is the base, the others the experts. Every step rounds as the
    tensor code does: Σ factorᵢ·(Wᵢ − W₀), divided by `divisor`, times `scale`, plus W₀; or without the base
    where `from_base` is false, Σ factorᵢ·Wᵢ / divisor. `work` (3, size) is float32, `bits` the same memory as
    uint32.

    Returns:
        Whether every input and output is finite; the output is of no use otherwise.
    """
    base, value, total = work[0], work[1], work[2]
    finite = widen(stored[0], bits[0]) if from_base else True
    for i in range(total.size):
        total[i] = np.float32(0)
    for expert in range(1, stored.shape[0]):
        finite = widen(stored[expert], bits[1]) and finite
        factor = factors[expert - 1]
        for i in range(total.size):
            delta = value[i] - base[i] if from_base else value[i]
            total[i] += delta * factor
    for i in range(total.size):
        merged = total[i] / divisor
        total[i] = base[i] + merged * scale if from_base else merged
    return narrow(bits[2], out) and finite
