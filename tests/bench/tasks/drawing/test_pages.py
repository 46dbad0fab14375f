import random
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.pages import (
    INKS,
    LIGHT_INKS,
    SMALLEST,
    Line,
    Look,
    capitals,
    fits,
    look,
    render,
)

PLAIN = Look((255, 255, 255), "sans bold", 16, 1.0, 0.0, 0, False, 0)
FORM = [Line(("TOTAL", "187"), "black"), Line(("MILK", "19"), "black")]


def ink(image: Image.Image, paper: tuple[int, int, int]) -> Image.Image:
    """How far every pixel is from the paper's colour; 0 for paper."""
    difference = ImageChops.difference(image, Image.new("RGB", image.size, paper))
    return difference.convert("L").point(lambda value: value if value > 8 else 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("height", [13, 16, 24])
def test_capitals_are_as_tall_as_asked(family: str, height: int) -> None:
    _, top, _, bottom = capitals(family, height).getbbox("EHI")
    assert height <= bottom - top <= height + 2


def test_one_look_gives_the_same_pixels_twice() -> None:
    busy = replace(PLAIN, noise=24, degrees=1.5, rules=True)
    assert render(FORM, busy).tobytes() == render(FORM, busy).tobytes()
    assert render(FORM, busy).tobytes() != render(FORM, replace(busy, seed=1)).tobytes()


@pytest.mark.parametrize("seed", range(40))
def test_print_is_tall_enough_and_stays_clear_of_the_edge(seed: int) -> None:
    lines = [Line((text,), "black") for text in ("BEHEMO", "30534", "HOH", "HAMMER")[: 1 + seed % 4]]
    page = replace(look(random.Random(seed), lines, dark=False), degrees=0.0, noise=0, rules=False)
    left, top, right, bottom = ink(render(lines, page), page.paper).getbbox()
    assert left >= 3 and right <= SIDE - 3
    assert top >= 3 and bottom <= SIDE - 3
    assert (bottom - top) >= len(lines) * SMALLEST


@pytest.mark.parametrize("seed", range(40))
def test_a_turned_page_loses_no_print(seed: int) -> None:
    lines = [Line(("WINDOW",), "black"), Line(("48051",), "black"), *FORM][: 1 + seed % 4]
    page = replace(look(random.Random(seed), lines, dark=False), noise=0, rules=False)

    def amount(page: Look) -> int:
        return sum(
            count * value for value, count in enumerate(ink(render(lines, page), page.paper).histogram())
        )

    assert amount(page) > 0.95 * amount(replace(page, degrees=0.0))


@pytest.mark.parametrize("dark", [False, True])
def test_every_ink_stands_out_from_its_paper(dark: bool) -> None:
    rng = random.Random(0)
    for colour in LIGHT_INKS if dark else INKS:
        for _ in range(10):
            lines = [Line(("HELLO",), colour)]
            page = replace(look(rng, lines, dark=dark), noise=0, rules=False)
            strongest = max(
                high
                for _, high in ImageChops.difference(
                    render(lines, page), Image.new("RGB", (SIDE, SIDE), page.paper)
                ).getextrema()
            )
            assert strongest > 80


def test_lines_come_in_their_inks_from_top_to_bottom() -> None:
    lines = [Line(("HELLO",), "red"), Line(("WORLD",), "blue")]
    image = render(lines, PLAIN)
    red, _, blue = image.split()
    _, red_top, _, red_bottom = blue.point(lambda v: 255 if v < 100 else 0).getbbox()  # red ink lacks blue
    _, blue_top, _, blue_bottom = red.point(lambda v: 255 if v < 100 else 0).getbbox()
    assert red_top < red_bottom <= blue_top < blue_bottom


def test_fields_have_their_names_left_and_their_values_right() -> None:
    image = ink(render([Line(("TAX", "42"), "black")], PLAIN), PLAIN.paper)
    columns = [image.crop((x, 0, x + 1, SIDE)).getbbox() is not None for x in range(SIDE)]
    gap = max("".join("x" if inked else " " for inked in columns).strip().split("x"), key=len)
    assert len(gap) >= 8  # between name and value
    assert columns.index(True) < 10 and columns[::-1].index(True) < 10


def test_noise_changes_no_pixel_by_more_than_it_says() -> None:
    clean = render(FORM, PLAIN)
    noisy = render(FORM, replace(PLAIN, noise=12))
    assert 0 < max(high for _, high in ImageChops.difference(clean, noisy).getextrema()) <= 12


def test_a_font_is_found_in_which_wide_lines_fit() -> None:
    wide = [Line(("TOTAL", "999"), "black"), Line(("ROOM", "MWW"), "black"), Line(("MWXWMW",), "black")]
    for seed in range(50):
        assert fits(wide, look(random.Random(seed), wide, dark=False).family, SMALLEST)
