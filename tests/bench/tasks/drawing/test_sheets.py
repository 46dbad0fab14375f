import random

import numpy as np
import pytest

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.sheets import (
    INK_NAMES,
    NAMES,
    Mark,
    captions,
    lookups,
    on_grid,
    sheet,
)

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


@pytest.mark.parametrize("seed", SHEETS)
def test_a_lookup_means_one_mark_and_tells_what_it_is(seed: int) -> None:
    rng = random.Random(seed)
    marks = sheet(rng)[1]
    boxes = {
        turn.text.removeprefix("box of "): turn.answers[0]
        for draw in range(30)
        for turn in captions(random.Random(draw), marks)
        if turn.text.startswith("box of")
    }
    for turn in lookups(rng, marks, 99):
        words = turn.text.removesuffix("?").split()
        if words[0] in ("left", "top", "right", "bottom"):
            edges = [part.strip("[] ") for part in boxes[" ".join(words[2:])].split(",")]
            assert turn.answers[0] == edges[("left", "top", "right", "bottom").index(words[0])]
        elif words[1] == "color":
            assert [mark.colour for mark in marks if mark.name == words[-1]] == [turn.answers[0]]
        else:
            assert [mark.name for mark in marks if mark.colour == words[-1]] == [turn.answers[0]]


def test_there_are_as_many_lookups_as_asked_for_or_as_there_are() -> None:
    for seed in SHEETS:
        marks = sheet(random.Random(seed))[1]
        every = lookups(random.Random(0), marks, 99)
        assert len(lookups(random.Random(0), marks, 3)) == min(3, len(every))
