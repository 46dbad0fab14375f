"""Coloured shapes: what there is to draw, and drawing it.

A shape fills its box, so the box is what a referring expression points at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import font

Colour = tuple[int, int, int]
"""Red, green, blue; 0 to 255."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first pixels outside."""

COLOURS: Mapping[str, Colour] = {
    "red": (218, 36, 42),
    "orange": (250, 140, 20),
    "yellow": (245, 215, 30),
    "green": (40, 150, 55),
    "teal": (20, 165, 165),
    "blue": (40, 75, 215),
    "purple": (140, 50, 170),
    "black": (25, 25, 25),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "ring")
TINT = 12
"""Largest departure of a channel from its colour's value."""
LETTER_SIZE = 20
"""Em size of printed letters in pixels; capitals are about 14 tall."""
_SCALE = 2  # drawn at twice the size and averaged down: smooth edges


@dataclass(frozen=True)
class Item:
    """One shape in a picture.

    Args:
        kind: one of `KINDS`.
        colour: one of `COLOURS`.
        left: first column of its box.
        top: first row of its box.
        size: width and height of its box in pixels.
        rgb: how its colour came out.
        letter: printed on it; empty for none.
    """

    kind: str
    colour: str
    left: int
    top: int
    size: int
    rgb: Colour
    letter: str = ""

    @property
    def name(self) -> str:
        """Colour and kind of the shape in words."""
        return f"{self.colour} {self.kind}"

    @property
    def box(self) -> Box:
        """Left, top, right and bottom of the shape in pixels."""
        return self.left, self.top, self.left + self.size, self.top + self.size

    @property
    def x(self) -> float:
        """Column of the shape's centre in pixels."""
        return self.left + self.size / 2

    @property
    def y(self) -> float:
        """Row of the shape's centre in pixels."""
        return self.top + self.size / 2


@dataclass(frozen=True)
class Style:
    """What a picture looks like beside its shapes.

    Args:
        background: colour behind everything.
        outline: width of a dark line around every shape in pixels; 0 for none.
        family: font of the letters.
    """

    background: Colour
    outline: int
    family: str


def tint(rng: random.Random, colour: str) -> Colour:
    """A colour as it comes out in one picture: near its usual value."""
    red, green, blue = (min(255, max(0, v + rng.randint(-TINT, TINT))) for v in COLOURS[colour])
    return red, green, blue


def style(rng: random.Random, families: Sequence[str]) -> Style:
    """A random style: background light in three pictures of four, else gray; outlines in one of three."""
    low, high = (215, 255) if rng.random() < 0.75 else (gray := rng.randint(90, 110), gray + 12)
    red, green, blue = (rng.randint(low, high) for _ in range(3))
    return Style((red, green, blue), rng.choice((0, 0, 1)), rng.choice(families))


def render(items: Sequence[Item], style: Style) -> Image.Image:
    """The picture: shapes in their order, later ones on top, then every letter."""
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), style.background)
    pen = ImageDraw.Draw(image)
    for item in items:
        _shape(pen, item, style)
    for item in items:
        if item.letter:
            _letter(pen, item, style.family)
    return image.reduce(_SCALE)


def _shape(pen: ImageDraw.ImageDraw, item: Item, style: Style) -> None:
    left, top, right, bottom = (edge * _SCALE for edge in item.box)
    line = tuple(channel // 3 for channel in item.rgb) if style.outline else None
    width = style.outline * _SCALE
    if item.kind == "circle":
        pen.ellipse((left, top, right - 1, bottom - 1), item.rgb, line, width)
    elif item.kind == "ring":
        thickness = max(4, item.size // 4) * _SCALE
        pen.ellipse((left, top, right - 1, bottom - 1), None, item.rgb, thickness)
    elif item.kind == "square":
        pen.rectangle((left, top, right - 1, bottom - 1), item.rgb, line, width)
    else:
        size = right - left - 1
        points = [(left + x * size, top + y * size) for x, y in _CORNERS[item.kind]]
        pen.polygon(points, item.rgb, line, width)


def _star() -> list[tuple[float, float]]:
    """The ten corners of a five-pointed star, stretched to fill the unit square."""
    corners = []
    for step in range(10):
        angle, radius = math.pi * step / 5, 0.45 if step % 2 else 1.0
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    columns, rows = zip(*corners, strict=True)
    return [
        ((x - min(columns)) / (max(columns) - min(columns)), (y - min(rows)) / (max(rows) - min(rows)))
        for x, y in corners
    ]


_A, _B = 0.34, 0.66  # a cross's bars take the middle third
_CORNERS: Mapping[str, Sequence[tuple[float, float]]] = {
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "star": _star(),
    "cross": [
        (_A, 0),
        (_B, 0),
        (_B, _A),
        (1, _A),
        (1, _B),
        (_B, _B),
        (_B, 1),
        (_A, 1),
        (_A, _B),
        (0, _B),
        (0, _A),
        (_A, _A),
    ],
}


def _letter(pen: ImageDraw.ImageDraw, item: Item, family: str) -> None:
    """Prints in black or white, whichever stands out, with a rim of the shape's colour."""
    red, green, blue = item.rgb
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 120 else "white"
    at = (item.x * _SCALE, (item.y + (item.size / 10 if item.kind == "triangle" else 0)) * _SCALE)
    size = font(family, LETTER_SIZE * _SCALE)
    pen.text(at, item.letter, ink, size, "mm", stroke_width=2 * _SCALE, stroke_fill=item.rgb)
