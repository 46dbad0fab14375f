import random

import pytest
from PIL import ImageChops

from optmerge.bench.tasks.drawn._drawing.strokes import (
    Figure,
    Label,
    Style,
    beside,
    half_size,
    inside,
    random_style,
    render,
)

STYLES = [random_style(random.Random(seed)) for seed in range(40)]


@pytest.mark.parametrize("style", STYLES[:12])
def test_a_label_is_printed_where_it_says_and_within_its_half_size(style: Style) -> None:
    bare = render(Figure(), style)
    for text in ("100", "47", "x", "D"):
        box = ImageChops.difference(
            bare, render(Figure(labels=(Label(text, (50.0, 60.0)),)), style)
        ).getbbox()
        assert box is not None
        wide, tall = half_size(text)
        assert abs((box[0] + box[2]) / 2 - 50) <= 1.5
        assert box[0] >= 50 - wide - 1 and box[2] <= 50 + wide + 1
        if text != "x":
            assert abs((box[1] + box[3]) / 2 - 60) <= 1.5
            assert 12 <= box[3] - box[1] <= 2 * tall + 1


def test_every_style_is_in_high_contrast() -> None:
    for style in STYLES:
        low, high = render(Figure(rings=(((56.0, 56.0), 30.0),)), style).convert("L").getextrema()
        assert high - low > 110


def test_labels_stay_in_the_picture() -> None:
    assert inside((-5.0, 200.0), "40") == Label("40", (14.2, 104.0))
    assert inside((50.0, 50.0), "40").at == (50.0, 50.0)


def test_a_label_beside_a_line_is_on_the_side_away_from_the_point() -> None:
    line = ((20.0, 50.0), (80.0, 50.0))
    assert beside(line, (50.0, 60.0), "7").at[1] < 50 - 7 < 50 + 7 < beside(line, (50.0, 40.0), "7").at[1]


def test_places_are_named_by_ninths() -> None:
    assert [Label("1", at).place for at in ((5.0, 5.0), (56.0, 56.0), (100.0, 56.0))] == [
        "top left",
        "center",
        "right",
    ]
