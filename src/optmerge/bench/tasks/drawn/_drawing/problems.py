"""Geometry problems made at random and drawn: which figure, where, with which numbers and letters.

Angles are multiples of ten, lengths single digits, so that what is asked for has few values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations, product

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing import figures
from optmerge.bench.tasks.drawn._drawing.figures import Layout
from optmerge.bench.tasks.drawn._drawing.strokes import Figure, Style, random_style

_LETTERS = ("ABCD", "EFGH", "KLNP", "RSUV", "TYZA")
_LETTERED = 0.7  # share of figures with letters, where there is room for them
Contents = tuple[tuple[int, ...], tuple[str, ...]]
"""Numbers, and the texts at a figure's angles ("" where nothing is printed)."""


@dataclass(frozen=True)
class Problem:
    """Everything a figure depends on.

    Args:
        shape: one of `SHAPES`.
        numbers: lengths or angles, in the order its figure takes them.
        texts: what is printed at its angles, "" for nothing; () where lengths are printed instead.
        letters: of the corners, in the figure's order, or "".
        layout: where it lies.
        style: how it looks.
    """

    shape: str
    numbers: tuple[int, ...]
    texts: tuple[str, ...]
    letters: str
    layout: Layout
    style: Style


@dataclass(frozen=True)
class Shape:
    """A kind of figure: how often it comes, how it's made at random, and drawn.

    Args:
        share: among all figures, relatively.
        contents: numbers and texts at random.
        layout: at random.
        corners: how many letters it can have.
        figure: draws it.
    """

    share: float
    contents: Callable[[random.Random], Contents]
    layout: Callable[[random.Random], Layout]
    corners: int
    figure: Callable[[Problem], Figure]


def make(rng: random.Random) -> Problem:
    """A problem at random."""
    name = rng.choices(tuple(SHAPES), [shape.share for shape in SHAPES.values()])[0]
    shape = SHAPES[name]
    numbers, texts = shape.contents(rng)
    letters = ""
    if shape.corners and rng.random() < _LETTERED:
        letters, start = rng.choice(_LETTERS)[: shape.corners], rng.randrange(shape.corners)
        letters = letters[start:] + letters[:start]
    return Problem(name, numbers, texts, letters, shape.layout(rng), random_style(rng))


def figure(problem: Problem) -> Figure:
    """The figure of a problem."""
    return SHAPES[problem.shape].figure(problem)


def sort_of_angles(angles: tuple[int, ...]) -> str:
    """Acute, right or obtuse: a triangle by its largest angle."""
    return "acute" if max(angles) < 90 else "right" if max(angles) == 90 else "obtuse"


def sort_of_sides(lengths: tuple[int, ...]) -> str:
    """Scalene, isosceles or equilateral: a triangle by how many of its sides are equal."""
    return {3: "scalene", 2: "isosceles", 1: "equilateral"}[len(set(lengths))]


def _angles_at(lengths: tuple[int, ...]) -> list[float]:
    """A triangle's angles in degrees, by the law of cosines; each opposite one of the lengths."""
    return [
        math.degrees(math.acos((b * b + c * c - a * a) / (2 * b * c)))
        for a, b, c in (lengths, lengths[1:] + lengths[:1], lengths[2:] + lengths[:2])
    ]


_ANGLES = tuple(
    (a, b, 180 - a - b) for a, b in product(range(20, 121, 10), repeat=2) if 20 <= 180 - a - b <= 120
)
_BY_ANGLES = {
    sort: [angles for angles in _ANGLES if sort_of_angles(angles) == sort]
    for sort in ("acute", "right", "obtuse")
}
_LENGTHS = [
    lengths
    for lengths in product(range(2, 8), repeat=3)
    if lengths[0] < lengths[1] + lengths[2]
    and lengths[1] < lengths[0] + lengths[2]
    and lengths[2] < lengths[0] + lengths[1]
    and all(38 <= angle <= 105 for angle in _angles_at(lengths))  # else the labels have no room
]
_BY_SIDES = {
    sort: [lengths for lengths in _LENGTHS if sort_of_sides(lengths) == sort]
    for sort in ("scalene", "isosceles", "equilateral")
}
_PAIRS = {by: [(a, b) for a, b in permutations(range(2, 10), 2) if abs(a - b) == by] for by in range(1, 7)}
_HALVED = [(a, b) for a, b in product(range(2, 9), repeat=2) if a * b % 2 == 0]
_CROSSED = (40, 50, 60, 70, 80, 100, 110, 120, 130, 140)
_PARALLELS = (50, 60, 70, 80, 100, 110, 120, 130)
_PLACES = [  # of two labels at parallel lines; both on one side between the lines would be too close
    pair for pair in product(range(4), repeat=2) if pair not in ((0, 3), (1, 2))
]
_EQUAL = 0.3  # share of asked angles that equal the given one; reading it off must not pay


def _triangle(rng: random.Random) -> Contents:
    angles = rng.choice(_BY_ANGLES[rng.choice(("acute", "right", "obtuse"))])
    return angles, _with_x(angles, rng.randrange(3))


def _isosceles(rng: random.Random) -> Contents:
    base = rng.choice((30, 40, 50, 70, 80))
    odd, given = rng.randrange(3), rng.random()
    angles = [base] * 3
    angles[odd] = 180 - 2 * base
    others = rng.sample([i for i in range(3) if i != odd], 2)
    # apex from base, base from apex, or one base angle from the other
    shown, asked = (others[0], odd) if given < 0.45 else (odd, others[0]) if given < 0.8 else others
    texts = ["", "", ""]
    texts[shown], texts[asked] = str(angles[shown]), "x"
    return tuple(angles), tuple(texts)


def _rays(rng: random.Random) -> Contents:
    if rng.random() < 0.4:
        first = rng.choice(_CROSSED)
        angles: tuple[int, ...] = (first, 180 - first)
    else:
        angles = rng.choice([angles for angles in _ANGLES if min(angles) >= 40 and max(angles) <= 100])
    return angles, _with_x(angles, rng.randrange(len(angles)))


def _crossing(rng: random.Random) -> Contents:
    angle, shown = rng.choice(_CROSSED), rng.randrange(4)
    beside = (shown + rng.choice((1, 3))) % 4
    texts = ["", "", "", ""]
    texts[shown] = str(angle if shown % 2 == 0 else 180 - angle)
    if rng.random() < 0.5:
        texts[beside] = "x"
    else:
        opposite = (shown + 2) % 4
        first, second = rng.sample("xy", 2)
        texts[beside], texts[opposite] = first, second
    return (angle,), tuple(texts)


def _parallels(rng: random.Random) -> Contents:
    angle, equal = rng.choice(_PARALLELS), rng.random() < _EQUAL
    at_upper, at_lower = rng.choice([pair for pair in _PLACES if (sum(pair) % 2 == 0) == equal])
    upper, lower = ["", "", "", ""], ["", "", "", ""]
    upper[at_upper], lower[at_lower] = "x", "x"
    texts, shown = [*upper, *lower], rng.choice((at_upper, 4 + at_lower))
    texts[shown] = str(angle if shown % 2 == 0 else 180 - angle)
    return (angle,), tuple(texts)


def _sides(rng: random.Random) -> Contents:
    return rng.choice(_BY_SIDES[rng.choice(tuple(_BY_SIDES))]), ()


def _rectangle(rng: random.Random) -> Contents:
    return rng.choice(_PAIRS[rng.randint(1, 6)]), ()


def _circle(rng: random.Random) -> Contents:
    radius, across = rng.randint(1, 9), rng.randrange(2)
    return (radius * (1 + across), across), ()


def _with_x(angles: tuple[int, ...], asked: int) -> tuple[str, ...]:
    return tuple("x" if i == asked else str(angle) for i, angle in enumerate(angles))


def _boxed(across: int, down: int, tilt: int) -> Callable[[random.Random], Layout]:
    """Layouts in most of the picture: `across` pixels or more from left and right, `down` from the others."""

    def layout(rng: random.Random) -> Layout:
        left, right = (across + rng.randint(0, 8) for _ in "lr")
        top, bottom = (down + rng.randint(0, 6) for _ in "tb")
        return Layout(
            rng.randint(-tilt, tilt),
            rng.random() < 0.4,
            rng.random() < 0.5,
            (left, top, SIDE - right, SIDE - bottom),
        )

    return layout


def _centred(radii: tuple[int, int], off: int, turn: tuple[int, int]) -> Callable[[random.Random], Layout]:
    """Square layouts of a size in `radii`, at most `off` pixels off the middle, turned by `turn`."""

    def layout(rng: random.Random) -> Layout:
        radius = rng.randint(*radii)
        x, y = (SIDE // 2 + rng.randint(-off, off) for _ in "xy")
        return Layout(rng.randint(*turn), False, False, (x - radius, y - radius, x + radius, y + radius))

    return layout


def _ray_layout(rng: random.Random) -> Layout:
    flip, off = rng.random() < 0.4, rng.randint(18, 28)
    x = SIDE // 2 + rng.randint(-5, 5)
    return Layout(rng.randint(-5, 5), flip, False, (x, off, x, SIDE - off))


SHAPES: Mapping[str, Shape] = {
    "triangle of angles": Shape(
        4.5,
        _triangle,
        _boxed(10, 21, 6),
        0,
        lambda p: figures.triangle_of_angles(p.texts, p.numbers, p.layout, False),
    ),
    "isosceles": Shape(
        3,
        _isosceles,
        _boxed(10, 21, 6),
        0,
        lambda p: figures.triangle_of_angles(p.texts, p.numbers, p.layout, True),
    ),
    "rays": Shape(2, _rays, _ray_layout, 0, lambda p: figures.rays(p.texts, p.numbers, p.layout)),
    "crossing": Shape(
        1,
        _crossing,
        _centred((40, 40), 4, (0, 359)),
        0,
        lambda p: figures.crossing(p.texts, p.numbers[0], p.layout),
    ),
    "parallels": Shape(
        2.5,
        _parallels,
        _centred((18, 20), 1, (-4, 4)),
        0,
        lambda p: figures.parallels(p.texts, p.numbers[0], p.layout),
    ),
    "triangle of sides": Shape(
        2,
        _sides,
        _boxed(14, 21, 6),
        3,
        lambda p: figures.triangle_of_sides(p.numbers, p.letters, p.layout),
    ),
    "right triangle": Shape(
        1.5,
        lambda rng: (rng.choice(_HALVED), ()),
        _boxed(20, 20, 0),
        3,
        lambda p: figures.right_triangle(p.numbers, p.letters, p.layout),
    ),
    "rectangle": Shape(
        2.5,
        _rectangle,
        _boxed(20, 20, 0),
        4,
        lambda p: figures.rectangle(p.numbers, p.letters, p.layout),
    ),
    "square": Shape(
        1,
        lambda rng: ((rng.randint(2, 9),), ()),
        _boxed(20, 20, 0),
        4,
        lambda p: figures.rectangle(p.numbers, p.letters, p.layout),
    ),
    "circle": Shape(
        2.5,
        _circle,
        _centred((36, 44), 6, (0, 359)),
        0,
        lambda p: figures.circle(p.numbers[0], p.numbers[1] == 1, p.layout),
    ),
    "polygon": Shape(
        3,
        lambda rng: ((rng.randint(3, 8), rng.randint(2, 6)), ()),
        _centred((32, 36), 4, (0, 359)),
        0,
        lambda p: figures.polygon(p.numbers[0], p.numbers[1], p.layout),
    ),
}
