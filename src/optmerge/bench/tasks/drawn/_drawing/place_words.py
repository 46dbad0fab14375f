"""How shapes and their places are put into words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.shapes import KINDS, Box, Item

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
PLACES = tuple(f"{row} {column}".strip() or "center" for row in _ROWS for column in _COLUMNS)
"""The nine parts of a picture, row by row."""


PLURALS: Mapping[str, str] = {kind: kind + ("es" if kind.endswith("s") else "s") for kind in KINDS}


def place_of(x: float, y: float) -> str:
    """The part of the picture that the pixel lies in."""
    return PLACES[3 * min(2, int(3 * y / SIDE)) + min(2, int(3 * x / SIDE))]


def a(words: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def unique(items: Sequence[Item], key: Callable[[Item], Hashable]) -> list[Item]:
    """The items whose key no other item has."""
    counts = Counter(key(item) for item in items)
    return [item for item in items if counts[key(item)] == 1]


def box_words(box: Box) -> str:
    """A pixel box as answers give it: `[left, top, right, bottom]`."""
    return str(list(box_numbers(box)))


def box_numbers(box: Box) -> tuple[int, ...]:
    """Left, top, right, bottom of a pixel box in hundredths of the side, 0 to 99."""
    return tuple(min(99, round(100 * edge / SIDE)) for edge in box)
