"""Films and pictures: the shapes of the capability benchmark, moving and still.

Frames have the pictures' size, so that one kind of encoder fits both. There are eight, four a second: a
movement within one half takes four of them, and a small model can attend to all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from optmerge.bench.modalities.world import CAST, Actor, Thing
from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES, font
from optmerge.bench.tasks.drawn._drawing.shapes import LETTER_SIZE, Item, Style, render, style, tint

FRAMES = 8
"""Frame n shows the middle of the n-th eighth of the clip."""
NEAR, FAR = 18, 45
"""Pixels that an actor moves in all."""
_LANE, _QUARTER = SIDE // CAST, SIDE // 2
_ACTOR = (22, 25)
_SMALL, _BIG = (21, 24), (35, 38)
"""Fewest and most pixels that a shape is wide."""
_NUMBER = 14
"""Pixels that a number takes, right of its shape: on it, a small ring would look like a circle."""


def frames(rng: random.Random, film: Sequence[Actor]) -> NDArray[np.uint8]:
    """The film: `FRAMES`×`SIDE`×`SIDE`×3."""
    background = style(rng, FAMILIES).background
    shown = [_Shown(rng, actor, lane) for lane, actor in enumerate(film)]
    images = []
    for frame in range(FRAMES):
        image = Image.new("RGB", (SIDE, SIDE), background)
        for each in shown:
            each.put(image, frame)
        images.append(np.asarray(image))
    return np.stack(images)


def picture(rng: random.Random, things: Sequence[Thing]) -> Image.Image:
    """The picture: RGB, `SIDE`×`SIDE`, each thing somewhere in its quarter, its number to the right of it."""
    look = style(rng, FAMILIES)
    items = [_item(rng, thing, place) for place, thing in enumerate(things)]
    image = render(items, look)
    pen, ink = ImageDraw.Draw(image), "black" if sum(look.background) > 3 * 128 else "white"
    for item, thing in zip(items, things, strict=True):
        at = (item.left + item.size + _NUMBER / 2, item.y)
        pen.text(at, str(thing.number), ink, font(look.family, LETTER_SIZE), "mm")
    return image


def _item(rng: random.Random, thing: Thing, place: int) -> Item:
    size = rng.randint(*(_BIG if thing.big else _SMALL))
    row, column = divmod(place, 2)
    left = _QUARTER * column + rng.randint(2, _QUARTER - 2 - size - _NUMBER)
    top = _QUARTER * row + rng.randint(2, _QUARTER - 2 - size)
    return Item(thing.kind, thing.colour, left, top, size, tint(rng, thing.colour))


class _Shown:
    """An actor as it comes out: its exact size and colour, and where it is in each frame."""

    def __init__(self, rng: random.Random, actor: Actor, lane: int) -> None:
        size = rng.randint(*_ACTOR)
        self.rgb, self.mask = tint(rng, actor.colour), _mask(actor.kind, size)
        self.top = lane * _LANE + rng.randint(1, _LANE - 1 - size)
        self.columns = _columns(rng, actor, SIDE - 4 - size)

    def put(self, image: Image.Image, frame: int) -> None:
        image.paste(self.rgb, (self.columns[frame], self.top), self.mask)


def _columns(rng: random.Random, actor: Actor, room: int) -> list[int]:
    """The first column in each frame; between the first and the last frame of a half, steps are equal."""
    if actor.motion is None:
        return [2 + rng.randint(0, room)] * FRAMES
    way = FAR if actor.motion.far else NEAR
    start = 2 + rng.randint(0, room - way)
    half = FRAMES // 2
    first = half if actor.motion.late else 0
    steps = [min(max(frame - first, 0), half - 1) * way // (half - 1) for frame in range(FRAMES)]
    return [start + step if actor.motion.right else start + way - step for step in steps]


@cache
def _mask(kind: str, size: int) -> Image.Image:
    """A shape without its colour: white where it is; drawing it once is what makes films fast."""
    white = Item(kind, "", 0, 0, size, (255, 255, 255))
    return render([white], Style((0, 0, 0), 0, "")).crop((0, 0, size, size)).convert("L")
