"""Compiled loops for what torch can't fuse: one pass over a slice that lies in cache, no temporaries.

They release the interpreter lock and give bit for bit what the torch code they stand in for gives: the tests
compare them. The compiled code is cached on disk.

Several share the form of their input: `stored` (rows, size) holds a slice of each expert's tensor, bfloat16
seen as uint16 or float32; with `from_base` its first row is the base's and a delta is a row less that one,
otherwise the rows are the deltas. A delta is then multiplied by its expert's factor and, where `keys`
(experts, 2) isn't empty, dropped from at random (`drop_entries`). They work through the slice in chunks that
stay in the first cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from optmerge._compiled import compiled
from optmerge.checkpoints.bfloat16 import narrow, widen

MAGNITUDE = np.uint32(0x7FFFFFFF)
LANES = 32
NOT_COUNTED = np.uint32(0xFFFFFFFF)
CHUNK = 2048
NOT_FINITE = np.uint32(0x7F800000)


def compiled_for(values: Tensor) -> bool:
    """Whether the loops here can take a tensor; others go through torch."""
    return values.dtype == torch.float32 and values.device.type == "cpu"


@compiled
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


@compiled
def count_within(
    bits: Any,
    low: Any,
    width: Any,
    shift: Any,
    common: Any,
    scratch: Any,
    outside: Any,
    bins: Any,
    loose: Any,
) -> None:
    """Counts magnitudes from `low` on, `width` bit patterns, in bins of 1 << `shift` of them.

    Few magnitudes lie in the range, so blocks of `LANES` without one are skipped at vector speed. Many
    entries may have the magnitude `common`, which is therefore counted in a register: adding to one place in
    memory again and again is a store-forwarding stall each time.

    Args:
        bits: float32 seen as uint32.
        low: uint32.
        width: uint32.
        shift: uint32.
        common: uint32, the magnitude that is counted by itself.
        scratch: (≥ size,) uint32.
        outside: (2,) int64: adds how many are below `low`, and how many are the common one.
        bins: (bins,) int32: adds how many others are in each.
        loose: (bins,) uint8: becomes 1 where one of them isn't the bin's first bit pattern.
    """
    inside = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    below, equal = np.uint32(0), np.uint32(0)
    for i in range(bits.size):
        magnitude = bits[i] & MAGNITUDE
        below += np.uint32(magnitude < low)
        equal += np.uint32(magnitude == common)
        scratch[i] = np.uint32(magnitude - low) if magnitude != common else NOT_COUNTED
    outside[0] += below
    outside[1] += equal
    for first in range(0, bits.size, LANES):
        block = scratch[first : min(bits.size, first + LANES)]
        found = np.uint32(0)
        for i in range(block.size):
            found += np.uint32(block[i] < width)
        if found:
            for i in range(block.size):
                if block[i] < width:
                    place = block[i] >> shift
                    bins[place] += 1
                    loose[place] |= np.uint8((block[i] & inside) != 0)


@compiled
def count_trailing(bits: Any, prefix: Any, scratch: Any, counts: Any) -> None:
    """Adds to `counts` (65536,) how often each lower half occurs where the upper half is `prefix` (uint32).

    About one value in a hundred matches; blocks without one are passed over at vector speed. `scratch` is
    uint32, of the size of the values.
    """
    low = np.uint32(prefix << np.uint32(16))
    for i in range(bits.size):
        scratch[i] = np.uint32((bits[i] & MAGNITUDE) - low)
    for first in range(0, bits.size, LANES):
        block = scratch[first : min(bits.size, first + LANES)]
        found = np.uint32(0)
        for i in range(block.size):
            found += np.uint32(block[i] < np.uint32(65536))
        if found:
            for i in range(block.size):
                if block[i] < np.uint32(65536):
                    counts[block[i]] += 1


@compiled
def hash_pairs(hashes: Any, first_key: Any, second_key: Any, pair: int) -> None:
    """The 32-bit hashes of pairs `pair`, `pair` + 1, … in `hashes` (uint32); keys are uint32.

    The upper 32 bits of a pair's number are mixed into the hash of its lower ones; the inner loop runs over
    pairs that share the upper ones and stays in 32 bits. Numba computes in 64, hence the casts.
    """
    first = 0
    while first < hashes.size:
        low = np.uint32((pair + first) & 0xFFFFFFFF)
        high = np.uint32(((pair + first) >> 32) * 0x85EBCA6B)
        part = hashes[first : min(hashes.size, first + (1 << 32) - np.int64(low))]
        for i in range(part.size):
            state = np.uint32(np.uint32(np.uint32(low + np.uint32(i)) * np.uint32(0x9E3779B9)) + first_key)
            state ^= high
            state = np.uint32(np.uint32(state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            state = np.uint32(
                np.uint32(state ^ (state >> np.uint32(13)) ^ second_key) * np.uint32(0xC2B2AE35)
            )
            state = np.uint32(np.uint32(state ^ (state >> np.uint32(16))) * np.uint32(0x27D4EB2F))
            part[i] = np.uint32(state ^ (state >> np.uint32(15)))
        first += part.size


@compiled
def drop_entries(delta: Any, first_key: Any, second_key: Any, start: int, limit: Any, gain: Any) -> None:
    """DARE in place: entries whose 16-bit hash is below `limit` become 0, the others times `gain`.

    Two entries share a 32-bit hash; the first has its lower half. Keys are uint32, `limit` is uint16, `gain`
    float32, `start` the flat index of the first entry.
    """
    pairs = np.empty(CHUNK // 2 + 1, np.uint32)
    for first in range(0, delta.size, CHUNK):
        part = delta[first : min(delta.size, first + CHUNK)]
        odd = (start + first) & 1
        hash_pairs(pairs[: (part.size + odd + 1) // 2], first_key, second_key, (start + first) >> 1)
        hashes = pairs.view(np.uint16)[odd : odd + part.size]
        for i in range(part.size):
            part[i] = part[i] * gain if hashes[i] >= limit else np.float32(0)


@compiled
def copy_finite(values: Any, out: Any) -> bool:
    """float32 as it is; whether all of it is finite."""
    bits = values.view(np.uint32)
    largest = np.uint32(0)
    for i in range(values.size):
        out[i] = values[i]
        largest = max(largest, bits[i] & MAGNITUDE)
    return bool(largest < NOT_FINITE)


def load(stored: Any, out: Any) -> bool:
    """A row's chunk as float32 in `out`; whether all of it is finite. For compiled code only."""
    raise NotImplementedError


def store(values: Any, out: Any) -> bool:
    """float32 `values` in the type of `out`; whether all of it is finite. For compiled code only."""
    raise NotImplementedError


@overload(load, strict=False)  # annotations count as a difference otherwise
def _load(stored: Any, out: Any) -> Any:
    if stored.dtype == types.uint16:
        return lambda stored, out: widen(stored, out.view(np.uint32))
    return lambda stored, out: copy_finite(stored, out)


@overload(store, strict=False)
def _store(values: Any, out: Any) -> Any:
    if out.dtype == types.uint16:
        return lambda values, out: narrow(values.view(np.uint32), out)
    return lambda values, out: copy_finite(values, out)


@compiled
def sum_pairwise(values: Any) -> Any:
    """Sum of (CHUNK,) float32, overwritten: halves are added, at vector speed, until one entry is left."""
    half = CHUNK // 2
    while half:
        for i in range(half):
            values[i] += values[half + i]
        half //= 2
    return values[0]


@compiled
def sum_squares(stored: Any, sums: Any) -> None:
    """Σ base² and every Σ (row − base)² of a slice, to about six digits.

    Args:
        stored: (experts + 1, size) as above, the base's row first.
        sums: (experts + 1,) float64, overwritten; NaN or infinite where an input isn't finite.
    """
    base_row, delta_row = np.empty(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    sums[:] = 0.0
    for first in range(0, stored.shape[1], CHUNK):
        last = min(stored.shape[1], first + CHUNK)
        base, delta = base_row[: last - first], delta_row[: last - first]
        delta_row[delta.size :] = np.float32(0)
        load(stored[0, first:last], base)
        for i in range(base.size):
            delta[i] = base[i] * base[i]
        sums[0] += sum_pairwise(delta_row)
        for row in range(1, stored.shape[0]):
            delta_row[delta.size :] = np.float32(0)
            load(stored[row, first:last], delta)
            for i in range(delta.size):
                moved = delta[i] - base[i]
                delta[i] = moved * moved
            sums[row] += sum_pairwise(delta_row)


@compiled
def load_base(stored: Any, from_base: bool, first: int, last: int, base: Any) -> bool:
    """The base's chunk [first, last) in `base`, nothing without a base; whether all of it is finite."""
    finite = True
    if from_base:
        finite = load(stored[0, first:last], base)
    return finite


@compiled
def load_delta(
    stored: Any,
    from_base: bool,
    expert: int,
    first: int,
    last: int,
    base: Any,
    factor: Any,
    keys: Any,
    limit: Any,
    gain: Any,
    start: int,
    delta: Any,
) -> bool:
    """An expert's delta of the chunk [first, last), multiplied and dropped from, in `delta`."""
    finite = load(stored[expert + int(from_base), first:last], delta)
    if from_base:
        for i in range(delta.size):
            delta[i] -= base[i]
    if factor != np.float32(1):
        for i in range(delta.size):
            delta[i] *= factor
    if keys.shape[0]:
        drop_entries(delta, keys[expert, 0], keys[expert, 1], start + first, limit, gain)
    return finite


@compiled
def sum_deltas(
    stored: Any,
    from_base: bool,
    factors: Any,
    keys: Any,
    limit: Any,
    gain: Any,
    start: int,
    divisor: Any,
    scale: Any,
    out: Any,
) -> bool:
    """base + scale·(Σ deltas / divisor), or Σ rows / divisor without the base; every step rounds to float32.

    Args:
        stored: see above.
        from_base: see above.
        factors: (experts,) float32.
        keys: (experts, 2) uint32, or (0, 2) to drop nothing.
        limit: hashes below are dropped, uint16.
        gain: what entries that stay are multiplied by, float32.
        start: flat index of the slice in its tensor.
        divisor: float32.
        scale: float32.
        out: (size,), bfloat16 seen as uint16, or float32.

    Returns:
        Whether every input and output is finite; the output is of no use otherwise.
    """
    size = stored.shape[1]
    base_row, delta_row = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    total_row = np.empty(CHUNK, np.float32)
    finite = True
    for first in range(0, size, CHUNK):
        last = min(size, first + CHUNK)
        base, delta, total = base_row[: last - first], delta_row[: last - first], total_row[: last - first]
        finite = load_base(stored, from_base, first, last, base) and finite
        total[:] = np.float32(0)
        for expert in range(factors.size):
            finite = (
                load_delta(
                    stored,
                    from_base,
                    expert,
                    first,
                    last,
                    base,
                    factors[expert],
                    keys,
                    limit,
                    gain,
                    start,
                    delta,
                )
                and finite
            )
            for i in range(total.size):
                total[i] += delta[i]
        for i in range(total.size):
            merged = total[i] / divisor
            total[i] = base[i] + merged * scale if from_base else merged
        finite = store(total, out[first:last]) and finite
    return finite


@compiled
def count_magnitudes(
    stored: Any,
    from_base: bool,
    factors: Any,
    keys: Any,
    limit: Any,
    gain: Any,
    start: int,
    lows: Any,
    widths: Any,
    shifts: Any,
    common: Any,
    outside: Any,
    bins: Any,
    loose: Any,
) -> bool:
    """Counts every expert's magnitudes around where its threshold is expected.

    `stored` to `start` are as for `sum_deltas`. The others are as for `count_within`, with an axis for the
    experts in front: `lows`, `widths`, `shifts` and `common` (experts,) uint32, `outside` (experts, 2) int64,
    `bins` (experts, bins) int32, `loose` (experts, bins) uint8.

    Returns:
        Whether every input is finite.
    """
    size = stored.shape[1]
    base_row, delta_row = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    scratch = np.empty(CHUNK, np.uint32)
    finite = True
    for first in range(0, size, CHUNK):
        last = min(size, first + CHUNK)
        base, delta = base_row[: last - first], delta_row[: last - first]
        finite = load_base(stored, from_base, first, last, base) and finite
        for expert in range(factors.size):
            finite = (
                load_delta(
                    stored,
                    from_base,
                    expert,
                    first,
                    last,
                    base,
                    factors[expert],
                    keys,
                    limit,
                    gain,
                    start,
                    delta,
                )
                and finite
            )
            bits = delta.view(np.uint32)
            count_within(
                bits,
                lows[expert],
                widths[expert],
                shifts[expert],
                common[expert],
                scratch,
                outside[expert],
                bins[expert],
                loose[expert],
            )
    return finite


@compiled
def trimmed_sum_of_signs(
    stored: Any,
    from_base: bool,
    factors: Any,
    keys: Any,
    limit: Any,
    gain: Any,
    start: int,
    thresholds: Any,
) -> int:
    """How many entries of Σ τ̂ᵢ are positive, less how many are negative.

    `thresholds` (experts,) float32: smaller magnitudes are trimmed. The others are as for `sum_deltas`.
    """
    size = stored.shape[1]
    base_row, delta_row = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    total_row = np.empty(CHUNK, np.float32)
    count = np.int64(0)
    for first in range(0, size, CHUNK):
        last = min(size, first + CHUNK)
        base, delta, total = base_row[: last - first], delta_row[: last - first], total_row[: last - first]
        load_base(stored, from_base, first, last, base)
        total[:] = np.float32(0)
        for expert in range(factors.size):
            load_delta(
                stored, from_base, expert, first, last, base, factors[expert], keys, limit, gain, start, delta
            )
            for i in range(total.size):
                total[i] += delta[i] if abs(delta[i]) >= thresholds[expert] else np.float32(0)
        signs = np.int32(0)
        for i in range(total.size):
            signs += np.int32(total[i] > 0) - np.int32(total[i] < 0)
        count += signs
    return int(count)


@compiled
def mean_of_agreeing(
    stored: Any,
    from_base: bool,
    factors: Any,
    keys: Any,
    limit: Any,
    gain: Any,
    start: int,
    thresholds: Any,
    majority: Any,
    scale: Any,
    out: Any,
) -> bool:
    """TIES: base + scale·(mean of the trimmed deltas with the elected sign); that mean without the base.

    `thresholds` as for `trimmed_sum_of_signs`; `majority` (float32) is elected where the sum is zero. The
    others and what is returned are as for `sum_deltas`.
    """
    size, experts = stored.shape[1], factors.size
    deltas_rows = np.empty((experts, CHUNK), np.float32)
    base_row, total_row = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    count_row, elected_row = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    finite = True
    for first in range(0, size, CHUNK):
        last = min(size, first + CHUNK)
        base, total = base_row[: last - first], total_row[: last - first]
        count, elected = count_row[: last - first], elected_row[: last - first]
        finite = load_base(stored, from_base, first, last, base) and finite
        elected[:] = zero
        for expert in range(experts):
            delta = deltas_rows[expert, : last - first]
            finite = (
                load_delta(
                    stored,
                    from_base,
                    expert,
                    first,
                    last,
                    base,
                    factors[expert],
                    keys,
                    limit,
                    gain,
                    start,
                    delta,
                )
                and finite
            )
            for i in range(delta.size):
                delta[i] = delta[i] if abs(delta[i]) >= thresholds[expert] else zero
                elected[i] += delta[i]
        for i in range(elected.size):
            elected[i] = elected[i] if elected[i] != zero else majority
            elected[i] = one if elected[i] > zero else (-one if elected[i] < zero else zero)
            total[i] = zero
            count[i] = zero
        for expert in range(experts):
            delta = deltas_rows[expert, : last - first]
            for i in range(delta.size):
                agrees = delta[i] * elected[i] > zero
                total[i] += delta[i] if agrees else zero
                count[i] += one if agrees else zero
        for i in range(total.size):
            merged = total[i] / max(count[i], one)
            total[i] = base[i] + merged * scale if from_base else merged
        finite = store(total, out[first:last]) and finite
    return finite


@compiled
def adam_step(
    values: Any,
    gradient: Any,
    mean: Any,
    squares: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    rate: Any,
    root: Any,
) -> None:
    """One step of Adam on flat float32 arrays, in one pass; `rate` and `root` correct the biases.

    mean ← β₁·mean + (1 − β₁)·g,  squares ← β₂·squares + (1 − β₂)·g²,
    values ← values − rate·mean/(√squares/root + ε)
    """
    one = np.float32(1)
    for i in range(values.size):
        mean[i] += (gradient[i] - mean[i]) * (one - beta1)
        squares[i] = squares[i] * beta2 + gradient[i] * gradient[i] * (one - beta2)
        values[i] -= rate * mean[i] / (np.sqrt(squares[i]) / root + epsilon)
