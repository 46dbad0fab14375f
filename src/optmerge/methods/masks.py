"""Random drop masks that depend on nothing but (seed, tensor, expert, position).

Entry p of a mask is a hash of its key and p (the finaliser of SplitMix64 over a Weyl sequence), so any slice
can be made on its own, on any device, in any order, with the same result.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_WEYL = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_UNIFORM_BITS = 32


def drop_mask(
    shape: tuple[int, ...],
    drop: float,
    *,
    seed: int,
    tensor: str,
    expert: str,
    start: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """True where an entry survives, which it does with probability 1 − drop (to 2⁻³²).

    Args:
        shape: of the slice wanted.
        drop: probability of dropping an entry, in [0, 1).
        seed: the user's seed.
        tensor: name of the tensor.
        expert: name of the expert.
        start: flat index of the slice's first entry in the whole tensor.
        device: where to make it.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (the finaliser).
    """
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    key = int.from_bytes(digest[:8], "little")
    size = 1
    for length in shape:
        size *= length
    positions = torch.arange(start, start + size, dtype=torch.int64, device=device)
    state = positions * _signed(_WEYL) + _signed(key)
    state = (state ^ _shift_right(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shift_right(state, 27)) * _signed(_MIX_2)
    uniform = _shift_right(state ^ _shift_right(state, 31), 64 - _UNIFORM_BITS)
    survives: Tensor = uniform >= round(drop * 2**_UNIFORM_BITS)
    return survives.view(shape)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical shift of int64; torch's own keeps the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit integer."""
    return value - (1 << 64) if value >= 1 << 63 else value
