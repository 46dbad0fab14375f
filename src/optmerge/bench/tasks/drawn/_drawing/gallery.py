"""Several small geometric figures in one picture, each with its lengths printed at it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing import figures, strokes
from optmerge.bench.tasks.drawn._drawing.figures import Layout
from optmerge.bench.tasks.drawn._drawing.shapes import Box
from optmerge.bench.tasks.drawn._drawing.strokes import Figure

NAMES = ("circle", "square", "rectangle", "right triangle")
_HALF = SIDE // 2
_WHOLE_AREAS = [(a, b) for a in range(2, 10) for b in range(2, 10) if a != b and a * b % 2 == 0]


@dataclass(frozen=True)
class Framed:
    """One figure.

    Args:
        name: one of `NAMES`.
        numbers: a circle's diameter, a square's side, else the lengths of a level and an upright side.
        column: 0 in the left half of the picture, 1 in the right.
        row: 0 in the upper half, 1 in the lower.
        left: first column of pixels it may reach, in its quarter.
        top: first row.
        size: width and height of what it fills.
    """

    name: str
    numbers: tuple[int, ...]
    column: int
    row: int
    left: int
    top: int
    size: int

    @property
    def word(self) -> str:
        """Name of the figure in questions."""
        return self.name.split()[-1]


def gallery(rng: random.Random) -> tuple[Framed, ...]:
    """Three or four figures, each in a quarter; the last has the name of another, but other numbers."""
    names = rng.sample(NAMES, rng.randint(2, 3))
    names.append(rng.choice(names))
    numbers = [_numbers(rng, name) for name in names]
    while sorted(numbers[-1]) == sorted(numbers[names.index(names[-1])]):
        numbers[-1] = _numbers(rng, names[-1])
    quarters = rng.sample([(column, row) for column in (0, 1) for row in (0, 1)], len(names))
    return tuple(
        _placed(rng, name, lengths, *quarter)
        for name, lengths, quarter in zip(names, numbers, quarters, strict=True)
    )


def twins(shown: Sequence[Framed]) -> list[Framed]:
    """The two figures of the same name."""
    names = [framed.name for framed in shown]
    return [framed for framed in shown if names.count(framed.name) == 2]


def numbered(framed: Framed) -> str:
    """The lengths of a figure in words."""
    if len(framed.numbers) == 2:
        return f"sides {framed.numbers[0]} and {framed.numbers[1]}"
    return f"{'diameter' if framed.name == 'circle' else 'side'} {framed.numbers[0]}"


def sides(framed: Framed, other: Framed) -> list[str]:
    """How a figure lies beside another: some of "leftmost", "rightmost", "highest", "lowest"."""
    found = []
    if framed.column != other.column:
        found.append(("leftmost", "rightmost")[framed.column])
    if framed.row != other.row:
        found.append(("highest", "lowest")[framed.row])
    return found


def measures(framed: Framed) -> list[tuple[Sequence[str], int]]:
    """What follows from the lengths of a figure: wordings of the question, and the answer."""
    long, wide = framed.numbers[0], framed.numbers[-1]
    if framed.name == "circle":
        return [(_RADIUS, long // 2)]
    if framed.name == "right triangle":
        return [(_AREA, long * wide // 2)]
    return [(_PERIMETER, 2 * (long + wide)), (_AREA, long * wide)]


_RADIUS = ("how long is the radius of the {}?", "what is the length of the radius of the {}?")
_PERIMETER = ("what is the perimeter of the {}?", "find the perimeter of the {}.")
_AREA = ("what is the area of the {}?", "find the area of the {}.")


def render(shown: Sequence[Framed], style: strokes.Style) -> Image.Image:
    """The picture of all figures."""
    each = [figure(framed) for framed in shown]
    merged = Figure(
        lines=tuple(line for one in each for line in one.lines),
        rings=tuple(ring for one in each for ring in one.rings),
        labels=tuple(label for one in each for label in one.labels),
    )
    return strokes.render(merged, style)


def figure(framed: Framed) -> Figure:
    """The lines and labels of one figure."""
    left, top = framed.column * _HALF + framed.left, framed.row * _HALF + framed.top
    layout = Layout(0, False, False, (left, top, left + framed.size, top + framed.size))
    if framed.name == "circle":
        return figures.circle(framed.numbers[0], True, layout)
    if framed.name == "right triangle":
        wide, tall = framed.numbers
        return figures.right_triangle((wide, tall), "", layout)
    return figures.rectangle(framed.numbers, "", layout)


def box(framed: Framed) -> Box:
    """Left, top, right, bottom of the lines of a figure in pixels, labels aside."""
    drawn = figure(framed)
    points = [point for line in drawn.lines for point in line]
    points += [(x + sign * r, y + sign * r) for (x, y), r in drawn.rings for sign in (-1, 1)]
    columns, rows = zip(*points, strict=True)
    return round(min(columns)), round(min(rows)), round(max(columns)), round(max(rows))


def _numbers(rng: random.Random, name: str) -> tuple[int, ...]:
    if name == "rectangle":
        wide, tall = rng.sample(range(2, 10), 2)
        return wide, tall
    if name == "right triangle":
        wide, tall = rng.choice(_WHOLE_AREAS)
        return wide, tall
    return (2 * rng.randint(1, 4) if name == "circle" else rng.randint(2, 9),)


def _placed(rng: random.Random, name: str, numbers: tuple[int, ...], column: int, row: int) -> Framed:
    """A figure somewhere in its quarter, with room for labels left of it and below (inside a circle)."""
    if name == "circle":
        size = rng.randint(42, 46)
        left, top = (rng.randint(4, _HALF - 4 - size) for _ in "xy")
    else:
        size = rng.randint(30, 34)
        left, top = rng.randint(17, _HALF - 4 - size), rng.randint(3, _HALF - 19 - size)
    return Framed(name, numbers, column, row, left, top, size)
