"""Random drops that depend on nothing but (seed, tensor, expert, position).

Whether entry p survives is decided by half of a 32-bit hash of ⌊p/2⌋ and a key (a Weyl sequence through three
rounds of a multiply-xor-shift finaliser), so any slice can be made on its own, on any device, in any order,
with the same result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optmerge.methods._fast.kernels import compiled_for, drop_entries

_WORD = (1 << 32) - 1
_HASHES = 1 << 16


@dataclass(frozen=True)
class DropKey:
    """The two 32-bit keys of a mask's hash, which differ from mask to mask."""

    first: int
    second: int

    @classmethod
    def of(cls, seed: int, tensor: str, expert: str) -> DropKey:
        """The key of a tensor of an expert under a seed."""
        digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
        return cls(int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"))


def drop_limit(drop: float) -> int:
    """The 16-bit hash below which entries are dropped with probability `drop`."""
    return min(round(drop * _HASHES), _HASHES - 1)


def gain(drop: float) -> float:
    """What survivors are multiplied by: 1/(1 − drop)."""
    return 1 / (1 - drop)


def dropped(values: Tensor, drop: float, key: DropKey, start: int = 0) -> Tensor:
    """The values with entries dropped with probability `drop` (to 2⁻¹⁶), survivors times 1/(1 − drop).

    Args:
        values: a slice of a tensor; not modified.
        drop: probability of dropping an entry, in [0, 1).
        key: of the mask.
        start: flat index of the slice's first entry in the whole tensor.
    """
    least = drop_limit(drop)
    if compiled_for(values):
        kept = values.clone(memory_format=torch.contiguous_format)
        flat = kept.view(-1).numpy()
        words = (np.uint32(key.first), np.uint32(key.second))
        drop_entries(flat, *words, start, np.uint16(least), np.float32(gain(drop)))
        return kept
    survives = hashes(values.numel(), key, start, values.device) >= least
    return (values * survives.view(values.shape)).mul_(gain(drop))


def hashes(size: int, key: DropKey, start: int = 0, device: torch.device | None = None) -> Tensor:
    """The 16-bit hashes of entries [start, start + size), as int64; what `drop_entries` computes."""
    position = torch.arange(start >> 1, (start + size + 1) >> 1, dtype=torch.int64, device=device)
    state = ((position & _WORD) * 0x9E3779B9 + key.first) & _WORD
    state ^= ((position >> 32) * 0x85EBCA6B) & _WORD
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _WORD
    state = ((state ^ (state >> 13) ^ key.second) * 0xC2B2AE35) & _WORD
    state = ((state ^ (state >> 16)) * 0x27D4EB2F) & _WORD
    state ^= state >> 15
    odd = start & 1
    return torch.stack([state & 0xFFFF, state >> 16], dim=1).flatten()[odd : odd + size]
