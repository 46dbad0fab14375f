"""Line drawings with printed labels: a figure is data, `render` makes it a picture.

Coordinates are pixels of the finished picture, x to the right, y down; angles are degrees clockwise from the
x axis, as on the screen and in Pillow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import font
from optmerge.bench.tasks.drawn._drawing.place_words import place_of

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SCALE = 2  # strokes are drawn larger and averaged down; letters are smooth anyway
_FAMILIES = ("sans", "sans bold", "roboto", "roboto bold", "source serif bold", "aileron")
_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((255, 255, 255), (20, 20, 20), (228, 234, 246)),
    ((255, 255, 255), (20, 40, 130), (250, 236, 214)),
    ((250, 246, 232), (60, 36, 20), (232, 240, 214)),
    ((234, 242, 250), (130, 20, 30), (252, 240, 240)),
    ((238, 248, 238), (10, 80, 50), (252, 248, 218)),
    ((246, 238, 248), (80, 24, 110), (228, 244, 246)),
    ((28, 34, 52), (240, 240, 232), (52, 62, 92)),
    ((24, 56, 44), (246, 238, 190), (44, 84, 68)),
)


@dataclass(frozen=True)
class Style:
    """How a figure looks: font family and em size, stroke width in pixels, number of the colour scheme."""

    family: str
    size: int
    width: int
    colours: int
    filled: bool


@dataclass(frozen=True)
class Label:
    """Printed text and the centre of its letters."""

    text: str
    at: Point

    @property
    def place(self) -> str:
        """Part of the picture that the label is printed in."""
        return place_of(*self.at)


@dataclass(frozen=True)
class Figure:
    """A line drawing.

    Args:
        lines: (from, to), drawn with round ends.
        arcs: (centre, radius, first angle, last angle).
        rings: circles, (centre, radius).
        dots: centres of small discs.
        area: corners of what may be filled, () for nothing.
        labels: what is printed.
    """

    lines: tuple[tuple[Point, Point], ...] = ()
    arcs: tuple[tuple[Point, float, float, float], ...] = ()
    rings: tuple[tuple[Point, float], ...] = ()
    dots: tuple[Point, ...] = ()
    area: tuple[Point, ...] = ()
    labels: tuple[Label, ...] = ()


def random_style(rng: random.Random) -> Style:
    """A legible style: letters of 12 to 14 pixels, strokes of 2 or 3."""
    return Style(
        rng.choice(_FAMILIES),
        rng.randint(17, 19),
        rng.choice((2, 2, 3)),
        rng.randrange(len(_COLOURS)),
        rng.random() < 0.5,
    )


def half_size(text: str) -> Point:
    """Half the width and height that `text` takes at most, in any style; M and W are wider."""
    return sum(8.0 if letter.isupper() else 6.6 for letter in text), 7.0


def sides(corners: Sequence[Point]) -> tuple[tuple[Point, Point], ...]:
    """The closed outline through these corners, as lines."""
    return tuple(zip(corners, (*corners[1:], corners[0]), strict=True))


def direction(degrees: float) -> Point:
    """The unit vector of that angle."""
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def moved(start: Point, degrees: float, length: float) -> Point:
    """The point at a distance and direction from `start`."""
    x, y = direction(degrees)
    return start[0] + length * x, start[1] + length * y


def inside(at: Point, text: str) -> Label:
    """A label at a point, or as near to it as the picture's edge allows."""
    wide, tall = half_size(text)
    x = min(max(at[0], wide + 1), SIDE - wide - 1)
    y = min(max(at[1], tall + 1), SIDE - tall - 1)
    return Label(text, (x, y))


def beside(line: tuple[Point, Point], away_from: Point, text: str, gap: float = 4.0) -> Label:
    """A label at the middle of a line, on the side that `away_from` isn't on."""
    (x1, y1), (x2, y2) = line
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    length = math.hypot(x2 - x1, y2 - y1)
    across = ((y1 - y2) / length, (x2 - x1) / length)
    if across[0] * (x - away_from[0]) + across[1] * (y - away_from[1]) < 0:
        across = (-across[0], -across[1])
    wide, tall = half_size(text)
    off = gap + wide * abs(across[0]) + tall * abs(across[1])
    return inside((x + off * across[0], y + off * across[1]), text)


def render(figure: Figure, style: Style) -> Image.Image:
    """The picture of a figure: RGB, `SIDE`×`SIDE`."""
    paper, ink, fill = _COLOURS[style.colours]
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), paper)
    _strokes(ImageDraw.Draw(image), figure, style.width * _SCALE, ink, fill if style.filled else paper)
    image = image.reduce(_SCALE)
    pen = ImageDraw.Draw(image)
    letters = font(style.family, style.size)
    drop = -letters.getbbox("0", anchor="ls")[1] / 2  # from the middle of a digit down to its baseline
    for label in figure.labels:
        pen.text((label.at[0], label.at[1] + drop), label.text, font=letters, fill=ink, anchor="ms")
    return image


def _strokes(pen: ImageDraw.ImageDraw, figure: Figure, width: int, ink: Colour, fill: Colour) -> None:
    if figure.area:
        pen.polygon([(_SCALE * x, _SCALE * y) for x, y in figure.area], fill=fill)
    for centre, radius in figure.rings:
        pen.ellipse(_square(centre, radius), fill=fill, outline=ink, width=width)
    for centre, radius, first, last in figure.arcs:
        pen.arc(_square(centre, radius), first, last, fill=ink, width=width)
    for start, end in figure.lines:
        pen.line([_SCALE * start[0], _SCALE * start[1], _SCALE * end[0], _SCALE * end[1]], ink, width)
        for point in (start, end):
            pen.ellipse(_square(point, (width - 1) / (2 * _SCALE)), fill=ink)
    for point in figure.dots:
        pen.ellipse(_square(point, 3.0), fill=ink)


def _square(centre: Point, radius: float) -> tuple[float, float, float, float]:
    x, y, reach = _SCALE * centre[0], _SCALE * centre[1], _SCALE * radius
    return x - reach, y - reach, x + reach, y + reach
