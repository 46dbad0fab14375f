from __future__ import annotations

import random
from typing import Any

import pytest
from PIL import Image, ImageChops

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, Item, Style, render, style, tint

PLAIN = Style((240, 240, 240), 0, "sans")


def alone(item: Item, look: Style = PLAIN) -> Any:
    """The box of the pixels that an item changes."""
    empty = Image.new("RGB", (SIDE, SIDE), look.background)
    return ImageChops.difference(render([item], look), empty).getbbox()


@pytest.mark.parametrize("outline", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_fills_its_box_and_nothing_else(kind: str, outline: Any) -> None:
    for left, top, size in ((2, 2, 20), (30, 51, 27), (70, 66, 42)):
        item = Item(kind, "blue", left, top, size, COLOURS["blue"])
        assert alone(item, Style((240, 240, 240), outline, "sans")) == item.box


def test_no_two_kinds_cover_the_same_pixels() -> None:
    pictures = {render([Item(kind, "red", 30, 30, 24, (218, 36, 42))], PLAIN).tobytes() for kind in KINDS}
    assert len(pictures) == len(KINDS)


def test_every_tint_is_nearest_to_its_own_colour_and_far_from_every_background() -> None:
    rng = random.Random(0)

    def apart(one: Any, other: Any) -> Any:
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5

    for colour in COLOURS:
        for _ in range(200):
            rgb = tint(rng, colour)
            assert min(COLOURS, key=lambda name: apart(COLOURS[name], rgb)) == colour
            assert apart(rgb, style(rng, FAMILIES).background) > 60


@pytest.mark.parametrize("family", FAMILIES)
def test_a_letter_is_at_least_thirteen_pixels_tall_and_stands_out(family: Any) -> None:
    look = Style((240, 240, 240), 0, family)
    bare, marked = (
        render([Item("square", "blue", 40, 40, 32, COLOURS["blue"], letter)], look) for letter in ("", "H")
    )
    left, top, right, bottom = ImageChops.difference(bare, marked).getbbox()
    assert 13 <= bottom - top <= 20 and 8 <= right - left <= 24
    darkest, lightest = marked.crop((left, top, right, bottom)).convert("L").getextrema()
    assert lightest - darkest > 100


@pytest.mark.parametrize("colour", COLOURS)
def test_letters_are_black_or_white_whichever_is_further_from_the_shape(colour: Any) -> None:
    marked = render([Item("square", colour, 40, 40, 36, COLOURS[colour], "H")], PLAIN)
    grey = marked.crop((42, 42, 74, 74)).convert("L")
    darkest, lightest = grey.getextrema()
    assert lightest - darkest > 90
