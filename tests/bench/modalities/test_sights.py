"""What is seen is what the content says: told from the pixels alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from optmerge.bench.modalities import clips, sights
from optmerge.bench.modalities.sights import FAR, FRAMES, NEAR
from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, TINT, Item, render, style

CONTENTS = [clips.content("train", index) for index in range(60)]


def film(content: Any) -> Any:
    return sights.frames(random.Random(content.seed), content.film)


def still(content: Any) -> Any:
    return np.asarray(sights.picture(random.Random(content.seed), content.picture))


def coloured(pixels: Any, colour: Any) -> Any:
    """Where a colour is."""
    return np.all(np.abs(pixels.astype(int) - COLOURS[colour]) <= TINT, -1)


def centres(frames: Any, colour: Any) -> Any:
    """Mean column and row of a colour's pixels in each frame."""
    places = [np.nonzero(coloured(frame, colour)) for frame in frames]
    return np.array([(columns.mean(), rows.mean()) for rows, columns in places])


def test_an_actor_moves_where_when_and_as_far_as_its_motion_says() -> None:
    for content in CONTENTS:
        frames = film(content)
        for actor in content.film:
            columns = centres(frames, actor.colour)[:, 0]
            early, late = columns[FRAMES // 2 - 1] - columns[0], columns[-1] - columns[FRAMES // 2]
            expected = [0, 0]
            if actor.motion:
                way = FAR if actor.motion.far else NEAR
                expected[actor.motion.late] = way if actor.motion.right else -way
            assert np.allclose([early, late], expected, atol=1)
            assert abs(columns[FRAMES // 2] - columns[FRAMES // 2 - 1]) < 1


def test_actors_stay_in_their_lanes_from_the_top_to_the_bottom() -> None:
    for content in CONTENTS:
        frames = film(content)
        rows = np.array([centres(frames, actor.colour)[:, 1] for actor in content.film])
        assert np.all(np.abs(rows - rows[:, :1]) < 1)
        assert np.all(rows[:, 0] // (SIDE // 4) == range(4))


def test_a_frame_looks_like_a_picture_of_the_same_shapes() -> None:
    """Apart from rounding, where edges are smoothed."""
    for content in CONTENTS[:15]:
        rng = random.Random(content.seed)
        background = style(rng, FAMILIES)
        shown = [sights._Shown(rng, actor, lane) for lane, actor in enumerate(content.film)]
        for frame, pixels in enumerate(film(content)):
            items = [
                Item(actor.kind, actor.colour, each.columns[frame], each.top, each.mask.width, each.rgb)
                for actor, each in zip(content.film, shown, strict=True)
            ]
            whole = np.asarray(render(items, type(background)(background.background, 0, "sans")))
            assert np.abs(whole.astype(int) - pixels).max() <= 2


def test_things_are_in_their_quarters_and_big_ones_bigger() -> None:
    for content in CONTENTS:
        pixels = still(content)
        widths = {True: [], False: []}
        for place, thing in enumerate(content.picture):
            rows, columns = np.nonzero(coloured(pixels, thing.colour))
            row, column = divmod(place, 2)
            if thing.colour != "black":  # numbers are black
                assert np.all(rows // (SIDE // 2) == row) and np.all(columns // (SIDE // 2) == column)
                widths[thing.big].append(np.ptp(columns))
        assert max(widths[False], default=0) + 8 < min(widths[True], default=SIDE)


def test_a_number_beside_each_thing_touches_none_and_is_in_its_quarter() -> None:
    """What differs where only the number does."""
    for content in CONTENTS:
        for place, thing in enumerate(content.picture):
            others = list(content.picture)
            others[place] = replace(thing, number=thing.number % 4 + 1)
            changed = np.any(still(content) != still(replace(content, picture=tuple(others))), -1)
            rows, columns = np.nonzero(changed)
            row, column = divmod(place, 2)
            assert np.all(rows // (SIDE // 2) == row) and np.all(columns // (SIDE // 2) == column)
            assert np.ptp(rows) >= 8
            if thing.colour != "black":
                assert not np.any(changed & coloured(still(content), thing.colour))


def test_shapes_and_sizes() -> None:
    content = CONTENTS[0]
    frames = film(content)
    assert frames.shape == (FRAMES, SIDE, SIDE, 3) and frames.dtype == np.uint8
    picture = sights.picture(random.Random(0), content.picture)
    assert isinstance(picture, Image.Image) and (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))
