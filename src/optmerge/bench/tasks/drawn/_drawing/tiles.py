"""Coloured tiles with a word or a number on each, one below the other at different places."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from optmerge.bench.tasks import SIDE, Split
from optmerge.bench.tasks.drawn._drawing import texts
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.pages import capitals
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, Box, Colour, tint

CAPITALS = 13
"""Height of the letters in pixels."""
_EDGE, _PADDING = 3, (11, 15)
"""Pixels left free at the picture's edge; fewest and most between a text and its tile's edge."""
_FAMILIES = tuple(name for name in FAMILIES if "bold" in name)


@dataclass(frozen=True)
class Tile:
    """One tile.

    Args:
        text: printed on it.
        colour: one of `COLOURS`.
        rgb: how its colour came out.
        box: where it is.
    """

    text: str
    colour: str
    rgb: Colour
    box: Box


@dataclass(frozen=True)
class Wall:
    """Tiles from top to bottom, the colour behind them, and the font of the print."""

    tiles: tuple[Tile, ...]
    background: Colour
    family: str


def wall(rng: random.Random, split: Split) -> Wall:
    """Three or four tiles of different colours with different texts of the split."""
    family, number = rng.choice(_FAMILIES), rng.randint(3, 4)
    printed: dict[str, None] = {}
    while len(printed) < number:
        make = texts.word if rng.random() < 0.75 else texts.number
        printed[make(rng, split, longest=4)] = None
    colours = rng.sample(tuple(COLOURS), len(printed))
    pitch = (SIDE - 2 * _EDGE) // number
    tiles = []
    for row, (text, colour) in enumerate(zip(printed, colours, strict=True)):
        wide = round(capitals(family, CAPITALS).getlength(text)) + rng.randint(*_PADDING)
        tall = min(pitch - 2, CAPITALS + rng.randint(*_PADDING))
        left = rng.randint(_EDGE, SIDE - _EDGE - wide)
        top = _EDGE + row * pitch + rng.randint(0, pitch - tall)
        tiles.append(Tile(text, colour, tint(rng, colour), (left, top, left + wide, top + tall)))
    light = rng.randint(215, 255)
    return Wall(tuple(tiles), (light, light, rng.randint(215, 255)), family)


def render(wall: Wall) -> Image.Image:
    """The picture: each text in the middle of its tile, black or white, whichever stands out."""
    image = Image.new("RGB", (SIDE, SIDE), wall.background)
    pen = ImageDraw.Draw(image)
    for tile in wall.tiles:
        left, top, right, bottom = tile.box
        pen.rectangle((left, top, right - 1, bottom - 1), tile.rgb)
        red, green, blue = tile.rgb
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 120 else "white"
        foot = ((left + right) / 2, (top + bottom + CAPITALS) / 2)
        pen.text(foot, tile.text, ink, capitals(wall.family, CAPITALS), "ms")
    return image
