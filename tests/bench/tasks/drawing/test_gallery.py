import random

import pytest

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing import gallery
from optmerge.bench.tasks.drawn._drawing.gallery import Framed
from optmerge.bench.tasks.drawn._drawing.strokes import Style, half_size

STYLE = Style("sans bold", 18, 2, 0, False)
SHOWN = [gallery.gallery(random.Random(seed)) for seed in range(80)]
CIRCLE = Framed("circle", (8,), 0, 0, 5, 5, 44)
SQUARE = Framed("square", (3,), 1, 0, 18, 4, 32)
RECTANGLE = Framed("rectangle", (7, 5), 0, 1, 18, 4, 32)
TRIANGLE = Framed("right triangle", (6, 3), 1, 1, 18, 4, 32)


@pytest.mark.parametrize(
    ("framed", "words", "values"),
    [
        (CIRCLE, "diameter 8", [4]),
        (SQUARE, "side 3", [12, 9]),
        (RECTANGLE, "sides 7 and 5", [24, 35]),
        (TRIANGLE, "sides 6 and 3", [9]),
    ],
)
def test_words_and_measures_follow_from_the_lengths(framed: Framed, words: str, values: list[int]) -> None:
    assert gallery.numbered(framed) == words
    assert [value for _, value in gallery.measures(framed)] == values


def test_a_figure_lies_on_the_sides_of_another_that_its_quarter_says() -> None:
    assert gallery.sides(CIRCLE, SQUARE) == ["leftmost"]
    assert gallery.sides(TRIANGLE, SQUARE) == ["lowest"]
    assert gallery.sides(SQUARE, RECTANGLE) == ["rightmost", "highest"]


def test_just_two_figures_share_a_name_and_they_differ_in_their_numbers() -> None:
    for shown in SHOWN:
        one, other = gallery.twins(shown)
        assert one.name == other.name and sorted(one.numbers) != sorted(other.numbers)
        assert len({(framed.column, framed.row) for framed in shown}) == len(shown)


def test_the_box_of_a_figure_holds_its_lines_and_touches_them_on_every_side() -> None:
    for framed in (CIRCLE, SQUARE, RECTANGLE, TRIANGLE):
        image = gallery.render([framed], STYLE).convert("L").point(lambda value: 255 * (value < 128))
        left, top, right, bottom = gallery.box(framed)
        for x1, y1, x2, y2 in (
            (left - 2, top, left + 3, bottom),
            (right - 3, top, right + 2, bottom),
            (left, top - 2, right, top + 3),
            (left, bottom - 3, right, bottom + 2),
        ):
            assert image.crop((x1, y1, x2, y2)).getbbox() is not None
        assert image.crop((left - 4, 0, left - 2, top)).getbbox() is None
        assert image.crop((right + 2, 0, right + 4, bottom)).getbbox() is None


def test_labels_and_figures_stay_in_their_quarters() -> None:
    for shown in SHOWN:
        for framed in shown:
            left, top, right, bottom = gallery.box(framed)
            for label in gallery.figure(framed).labels:
                (x, y), (wide, tall) = label.at, half_size(label.text)
                left, right = min(left, x - wide), max(right, x + wide)
                top, bottom = min(top, y - tall), max(bottom, y + tall)
            assert framed.column * SIDE // 2 - 1 <= left and right <= (framed.column + 1) * SIDE // 2 + 1
            assert framed.row * SIDE // 2 - 1 <= top and bottom <= (framed.row + 1) * SIDE // 2 + 1
