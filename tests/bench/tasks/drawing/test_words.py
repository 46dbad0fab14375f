from __future__ import annotations

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.place_words import PLACES, box_words, place_of


def test_places_are_the_nine_thirds_row_by_row() -> None:
    at = (10, 56, 100)
    assert tuple(place_of(x, y) for y in at for x in at) == PLACES
    assert place_of(SIDE, SIDE) == "bottom right"


def test_boxes_are_written_in_hundredths_up_to_99() -> None:
    assert box_words((0, 28, 56, 112)) == "[0, 25, 50, 99]"
