"""Lines of print on paper: signs, lists, forms and receipts, as a camera may see them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFont

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES, font
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, Colour

INKS: tuple[str, ...] = ("red", "green", "blue", "purple", "black", "orange", "teal")
"""Colours that text on light paper has; on dark paper it has `LIGHT_INKS`."""
LIGHT_INKS: tuple[str, ...] = ("yellow", "orange", "white")
SMALLEST = 13
"""Least height of capital letters in pixels."""
_FAMILIES = (*FAMILIES, *(name for name in FAMILIES if "bold" in name))  # thin strokes are rarer
_MARGIN = 5
_GAP = 8


@dataclass(frozen=True)
class Line:
    """One line of print.

    Args:
        cells: one text, or a field's name on the left and its value on the right.
        ink: one of `INKS`, or of `LIGHT_INKS` on dark paper.
    """

    cells: tuple[str, ...]
    ink: str


@dataclass(frozen=True)
class Look:
    """How a page came out.

    Args:
        paper: colour behind the print.
        family: font.
        height: of capital letters in pixels; less where a line wouldn't fit, never below `SMALLEST`.
        contrast: 1 for full ink; towards 0 the ink fades into the paper.
        degrees: how far the page is turned.
        noise: largest change of a pixel.
        rules: whether there are lines under the print.
        seed: of places and of the noise.
    """

    paper: Colour
    family: str
    height: int
    contrast: float
    degrees: float
    noise: int
    rules: bool
    seed: int


def look(rng: random.Random, lines: Sequence[Line], *, dark: bool) -> Look:
    """A random look for these lines; a single line is printed bigger, turned further and faded more."""
    low, high = (20, 55) if dark else (215, 255)
    paper = (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))
    alone = len(lines) == 1
    height = rng.randint(15, 24) if alone else rng.randint(SMALLEST, 16 if len(lines) == 2 else 14)
    turn = {1: 8.0, 2: 4.0}.get(len(lines), 2.0)
    family = next(
        (name for name in rng.sample(_FAMILIES, 4) if fits(lines, name, SMALLEST)),
        "mono",  # the narrowest for wide letters: eight and a gap fit
    )
    return Look(
        paper=paper,
        family=family,
        height=height,
        contrast=rng.uniform(0.6, 1.0) if alone else rng.uniform(0.8, 1.0),
        degrees=rng.uniform(-turn, turn) if rng.random() < 0.6 else 0.0,
        noise=rng.choice((0, 0, 12, 24)),
        rules=rng.random() < 0.25,
        seed=rng.getrandbits(32),
    )


def render(lines: Sequence[Line], look: Look) -> Image.Image:
    """The page: lines one below the other, somewhere in the picture."""
    rng = random.Random(look.seed)
    height = look.height
    while height > SMALLEST and not fits(lines, look.family, height):
        height -= 1
    image = Image.new("RGB", (SIDE, SIDE), look.paper)
    pen = ImageDraw.Draw(image)
    pitch = min((SIDE - 2 * _MARGIN) // len(lines), height + rng.randint(8, 14))
    free = SIDE - 2 * _MARGIN - pitch * len(lines)
    top = _MARGIN + round(rng.triangular(0, free)) + pitch // 2
    widest = max(_width(line, look.family, height) for line in lines)
    for row, line in enumerate(lines):
        _print(pen, rng, line, replace(look, height=height), top + row * pitch, widest)
        if look.rules:
            under = top + row * pitch + (pitch + height) // 4 + 1
            pen.line((_MARGIN, under, SIDE - _MARGIN, under), faded("black", look.paper, 0.3))
    if look.degrees:
        image = image.rotate(look.degrees, Image.Resampling.BILINEAR, fillcolor=look.paper)
    return noisy(image, rng, look.noise) if look.noise else image


@cache
def capitals(family: str, height: int) -> ImageFont.FreeTypeFont:
    """The font in which capital letters are that many pixels tall, or up to one pixel taller."""
    _, top, _, bottom = font(family, 200).getbbox("H")
    return font(family, math.ceil(200 * height / (bottom - top)))


def fits(lines: Sequence[Line], family: str, height: int) -> bool:
    """Whether every line has room in the picture's width, with capitals that tall."""
    return all(_width(line, family, height) <= SIDE - 2 * _MARGIN for line in lines)


def _print(
    pen: ImageDraw.ImageDraw, rng: random.Random, line: Line, look: Look, middle: int, widest: float
) -> None:
    """Prints a line around a height: single texts left or anywhere, a field's parts at both edges."""
    letters, ink = capitals(look.family, look.height), faded(line.ink, look.paper, look.contrast)
    if len(line.cells) == 1:
        left = _MARGIN + rng.triangular(0, SIDE - 2 * _MARGIN - widest)
        pen.text((left, middle), line.cells[0], ink, letters, "lm")
        return
    pen.text((_MARGIN, middle), line.cells[0], ink, letters, "lm")
    pen.text((SIDE - _MARGIN, middle), line.cells[1], ink, letters, "rm")


def _width(line: Line, family: str, height: int) -> float:
    letters = capitals(family, height)
    return sum(letters.getlength(cell) for cell in line.cells) + _GAP * (len(line.cells) - 1)


def faded(ink: str, paper: Colour, contrast: float) -> Colour:
    """An ink on a paper: itself at contrast 1, the paper at 0."""
    full = COLOURS.get(ink, (255, 255, 255))
    red, green, blue = (round(p + contrast * (i - p)) for i, p in zip(full, paper, strict=True))
    return red, green, blue


def noisy(image: Image.Image, rng: random.Random, most: int) -> Image.Image:
    """Every pixel lighter or darker by up to `most`, all channels alike."""
    grain = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    grain = grain.point([value * 2 * most // 255 for value in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (grain,) * 3), 1, -most)
