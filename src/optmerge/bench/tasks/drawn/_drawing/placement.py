"""Places for boxes of given sizes, without heavy overlap."""

from __future__ import annotations

import random
from collections.abc import Sequence

from optmerge.bench.tasks import SIDE

_TRIES = 40
"""Spots drawn for one box."""
_ROUNDS = 5
"""Times that everything is placed anew because a box fitted nowhere."""
_Placed = list[tuple[int, int, int]]
"""Left, top, width."""


def place(
    rng: random.Random, sizes: Sequence[int], *, gap: int = 2, overlap: float = 0.0
) -> list[tuple[int, int]]:
    """The left top corner of a square of each size, inside the picture.

    Each place is drawn at random until its square fits. If some squares fit nowhere in any round, the result
    is the round whose worst square overlaps least.

    Args:
        rng: decides everything.
        sizes: widths in pixels; the largest first packs best.
        gap: pixels kept free around every square, and at the picture's edge.
        overlap: share of a square, gap included, that may lie under an earlier one.
    """
    rounds = []
    for _ in range(_ROUNDS):
        rounds.append(_round(rng, sizes, gap, overlap))
        if rounds[-1][0] <= overlap:
            break
    return [(left, top) for left, top, _ in min(rounds)[1]]


def _round(rng: random.Random, sizes: Sequence[int], gap: int, overlap: float) -> tuple[float, _Placed]:
    """The largest overlapping share, and every square's place."""
    placed: _Placed = []
    worst = 0.0
    for size in sizes:
        best, least = (0, 0), float("inf")
        for _ in range(_TRIES):
            left, top = rng.randint(gap, SIDE - gap - size), rng.randint(gap, SIDE - gap - size)
            share = max((_shared(left, top, size, other, gap) for other in placed), default=0) / size**2
            if share < least:
                best, least = (left, top), share
            if share <= overlap:
                break
        placed.append((*best, size))
        worst = max(worst, least)
    return worst, placed


def _shared(left: int, top: int, size: int, other: tuple[int, int, int], gap: int) -> int:
    x, y, width = other
    columns = min(left + size, x + width) - max(left, x) + gap
    rows = min(top + size, y + width) - max(top, y) + gap
    return columns * rows if columns > 0 and rows > 0 else 0
