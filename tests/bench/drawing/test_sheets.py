import random

import numpy as np
import pytest

from optmerge.bench.drawing.sheets import INK_NAMES, NAMES, Mark, on_grid, sheet
from optmerge.bench.tasks.registry import SIDE

SHEETS = range(60)


def test_a_sheet_depends_on_its_seed_alone() -> None:
    for seed in range(5):
        (one, marks), (other, again) = sheet(random.Random(seed)), sheet(random.Random(seed))
        assert one.tobytes() == other.tobytes() and marks == again


def test_every_name_and_colour_is_known_and_comes_up() -> None:
    marks = [mark for seed in range(300) for mark in sheet(random.Random(seed))[1]]
    assert {mark.name for mark in marks} == set(NAMES)
    assert {mark.colour for mark in marks} == set(INK_NAMES)


@pytest.mark.parametrize("seed", SHEETS)
def test_boxes_lie_where_there_is_something_to_see(seed: int) -> None:
    """Nothing stands out beyond the boxes, and something does within each."""
    picture, marks = sheet(random.Random(seed))
    pixels = np.asarray(picture).astype(int)
    paper = np.median(pixels.reshape(-1, 3), axis=0) if len(marks) < 3 else pixels[0, 0]
    stands_out = (np.abs(pixels - paper) > 60).any(axis=2)
    outside = stands_out.copy()
    for mark in marks:
        left, top, right, bottom = (round(edge) for edge in mark.box)
        inside = stands_out[max(0, top) : bottom, max(0, left) : right]
        assert inside.any(), mark
        outside[max(0, top - 2) : bottom + 3, max(0, left - 2) : right + 3] = False
    if len(marks) < 3:  # where most of the picture is paper
        assert outside.mean() < 0.005


def test_a_cell_belongs_to_the_mark_that_covers_most_of_it() -> None:
    side = SIDE / 8
    small, large = Mark("A", "red", (0, 0, side, side)), Mark("B", "blue", (0.6 * side, 0, 3 * side, side))
    cells = on_grid([small, large], 8)
    assert [mark and mark.name for mark in cells[0][:4]] == ["A", "B", "B", None]
    assert all(mark is None for row in cells[1:] for mark in row)
