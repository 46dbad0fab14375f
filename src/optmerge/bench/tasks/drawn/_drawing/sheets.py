"""Sheets: a glyph or a shape in each cell of a loose grid, with the place of every one.

A sheet shows what all tasks' pictures are made of, without any task's arrangement. The vision tower learns to
see from sheets, and a base learns to read and to point.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase, digits

from PIL import Image, ImageDraw

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing import shapes
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.pages import INKS, LIGHT_INKS, capitals, faded, noisy
from optmerge.bench.tasks.drawn._drawing.place_words import box_numbers, box_words
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, Colour, Item, tint
from optmerge.evaluate.questions import Question

GLYPHS = ascii_uppercase + digits
NAMES: tuple[str, ...] = (*GLYPHS, *KINDS)
"""Names that a mark may have."""
INK_NAMES: tuple[str, ...] = (*COLOURS, "white")
"""Colours that a mark may have."""
_GRIDS = ((1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (3, 5), (4, 4), (4, 5), (4, 6))
_LARGEST = 40
"""Width and height of a cell in pixels, at most."""
_CAPITALS = (12, 26)
"""Heights of a glyph in pixels."""

Edges = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Mark:
    """Something on a sheet.

    Args:
        name: one of `NAMES`.
        colour: one of `INK_NAMES`.
        box: that it fills.
    """

    name: str
    colour: str
    box: Edges

    @property
    def centre(self) -> tuple[float, float]:
        """Column and row of the mark's centre in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def width(self) -> float:
        """Width of the mark in pixels."""
        return self.box[2] - self.box[0]


def sheet(rng: random.Random) -> tuple[Image.Image, tuple[Mark, ...]]:
    """A picture and what is on it: glyphs in two of three, else shapes."""
    return _glyphs(rng) if rng.random() < 0.65 else _shapes(rng)


def _shapes(rng: random.Random) -> tuple[Image.Image, tuple[Mark, ...]]:
    """One shape in each of up to sixteen cells."""
    rows, columns = rng.choice([grid for grid in _GRIDS if grid[1] < 5])
    wide, tall = SIDE / columns, SIDE / rows
    items = []
    for row in range(rows):
        for column in range(columns):
            size = rng.randint(18, int(min(wide, tall, 44)))
            left, top = rng.uniform(0, wide - size), rng.uniform(0, tall - size)
            kind, colour = rng.choice(KINDS), rng.choice(tuple(COLOURS))
            place = int(column * wide + left), int(row * tall + top)
            items.append(Item(kind, colour, *place, size, tint(rng, colour)))
    picture = shapes.render(items, shapes.style(rng, FAMILIES))
    return picture, tuple(Mark(item.kind, item.colour, item.box) for item in items)


def _glyphs(rng: random.Random) -> tuple[Image.Image, tuple[Mark, ...]]:
    """Letters and digits, in half of the sheets in one font and ink; some turned, some noisy."""
    rows, columns = rng.choice(_GRIDS)
    dark, alike = rng.random() < 0.25, rng.random() < 0.5
    low, high = (20, 55) if dark else (215, 255)
    paper = (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    pen = ImageDraw.Draw(picture)
    wide, tall = (_cell(rng, SIDE - 8, number) for number in (columns, rows))
    left, top = rng.uniform(2, SIDE - 2 - wide * columns), rng.uniform(2, SIDE - 2 - tall * rows)
    inks = LIGHT_INKS if dark else INKS
    family, ink = rng.choice(FAMILIES), rng.choice(inks)
    marks = []
    for cell in range(rows * columns):
        if not alike:
            family, ink = rng.choice(FAMILIES), rng.choice(inks)
        corner = left + cell % columns * wide, top + cell // columns * tall
        colour = faded(ink, paper, rng.uniform(0.6, 1))
        glyph = rng.choice(GLYPHS)
        box = _write(pen, rng, glyph, family, colour, corner, (wide, tall))
        marks.append(Mark(glyph, ink, box))
    if rng.random() < 0.3:
        degrees = rng.uniform(-8, 8)
        picture = picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=paper)
        marks = [Mark(mark.name, mark.colour, _turned(mark.box, degrees)) for mark in marks]
    noise = rng.choice((0, 0, 12, 24))
    return noisy(picture, rng, noise) if noise else picture, tuple(marks)


def _cell(rng: random.Random, room: int, number: int) -> float:
    """Width or height of a cell in pixels."""
    most = min(_LARGEST, room / number)
    return rng.uniform(max(0.8 * most, min(20, most)), most)


def _write(
    pen: ImageDraw.ImageDraw,
    rng: random.Random,
    glyph: str,
    family: str,
    colour: Colour,
    corner: tuple[float, float],
    cell: tuple[float, float],
) -> Edges:
    """Prints a glyph somewhere in its cell; returns its box."""
    smallest, largest = _CAPITALS
    height = rng.randint(smallest, max(smallest, int(min(cell[0], 0.8 * cell[1], largest))))
    letters = capitals(family, height)
    left, top, right, bottom = letters.getbbox(glyph)
    x = corner[0] + rng.uniform(0, max(0.0, cell[0] - (right - left)))
    y = corner[1] + rng.uniform(0, max(0.0, cell[1] - (bottom - top)))
    pen.text((x - left, y - top), glyph, colour, letters)
    return x, y, x + right - left, y + bottom - top


def _turned(box: Edges, degrees: float) -> Edges:
    """A box after the picture is turned about its middle; the box keeps its size."""
    left, top, right, bottom = box
    angle, middle = math.radians(degrees), SIDE / 2
    x, y = (left + right) / 2 - middle, (top + bottom) / 2 - middle
    across = x * math.cos(angle) + y * math.sin(angle) + middle
    down = y * math.cos(angle) - x * math.sin(angle) + middle
    half, tall = (right - left) / 2, (bottom - top) / 2
    return across - half, down - tall, across + half, down + tall


def captions(rng: random.Random, marks: Sequence[Mark]) -> tuple[Question, ...]:
    """What there is to read, row by row; then which marks lie at two places, and where two marks lie."""
    glyphs = marks[0].name in GLYPHS
    read = "read the sheet." if glyphs else "name the shapes of the sheet."
    found = [
        (read, ("" if glyphs else ", ").join(mark.name for mark in marks)),
        ("name the colors of the sheet.", " ".join(mark.colour for mark in marks)),
    ]
    words = [called(mark) for mark in marks]
    boxes = [box_words(_within(mark.box)) for mark in marks]
    rows = range(len(marks))
    found += [(f"what is at {boxes[row]}?", words[row]) for row in rng.sample(rows, min(2, len(rows)))]
    once = [row for row in rows if words.count(words[row]) == 1]
    found += [(f"box of {words[row]}", boxes[row]) for row in rng.sample(once, min(2, len(once)))]
    return tuple(Question(text, (answer,), "caption") for text, answer in found)


def lookups(rng: random.Random, marks: Sequence[Mark], most: int) -> tuple[Question, ...]:
    """Questions with answers of one or two tokens: a mark's colour by its name, the reverse, or an edge.

    In a caption or a box, most tokens follow from the tokens before them. Here the answer follows from the
    picture alone, once the mark is found.

    Args:
        rng: decides.
        marks: of a sheet.
        most: number of questions at most.
    """
    names, colours = [mark.name for mark in marks], [mark.colour for mark in marks]
    words = [called(mark) for mark in marks]
    found = []
    for mark, word in zip(marks, words, strict=True):
        if names.count(mark.name) == 1:
            found.append((f"what color is {mark.name}?", mark.colour))
        if colours.count(mark.colour) == 1:
            found.append((f"what is {mark.colour}?", mark.name))
        if words.count(word) == 1:
            edge = rng.randrange(4)
            number = box_numbers(_within(mark.box))[edge]
            found.append((f"{_EDGES[edge]} of {word}?", str(number)))
    chosen = rng.sample(found, min(most, len(found)))
    return tuple(Question(text, (answer,), "caption") for text, answer in chosen)


_EDGES = ("left", "top", "right", "bottom")


def called(mark: Mark) -> str:
    """Words that tell a mark from most others: a glyph itself; colour and kind of a shape."""
    return mark.name if mark.name in GLYPHS else f"{mark.colour} {mark.name}"


def _within(box: Edges) -> shapes.Box:
    """A box in whole pixels, cut off at the picture's edge."""
    left, top, right, bottom = (min(SIDE, max(0, round(edge))) for edge in box)
    return left, top, right, bottom


def on_grid(marks: Sequence[Mark], cells: int) -> list[list[Mark | None]]:
    """Which mark covers most of each cell of a grid, row by row; None where none covers three tenths.

    Args:
        marks: of a sheet.
        cells: number of cells along each side.
    """
    side = SIDE / cells
    found: list[list[Mark | None]] = [[None] * cells for _ in range(cells)]
    most = [[0.3] * cells for _ in range(cells)]
    for mark in marks:
        left, top, right, bottom = mark.box
        for row in range(max(0, int(top / side)), min(cells, int(bottom / side) + 1)):
            for column in range(max(0, int(left / side)), min(cells, int(right / side) + 1)):
                wide = min(right, (column + 1) * side) - max(left, column * side)
                tall = min(bottom, (row + 1) * side) - max(top, row * side)
                share = wide * tall / min(side * side, (right - left) * (bottom - top))
                if min(wide, tall) > 0 and share > most[row][column]:
                    most[row][column], found[row][column] = share, mark
    return found
