import random

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS
from optmerge.bench.tasks.drawn._drawing.tiles import CAPITALS, render, wall

WALLS = [wall(random.Random(seed), "train") for seed in range(60)]


def test_tiles_differ_in_text_and_colour_and_do_not_overlap() -> None:
    for shown in WALLS:
        assert len(shown.tiles) in (3, 4)
        assert len({tile.text for tile in shown.tiles}) == len({tile.colour for tile in shown.tiles})
        edges = [edge for tile in shown.tiles for edge in (tile.box[1], tile.box[3])]
        assert edges == sorted(edges)
        for left, top, right, bottom in (tile.box for tile in shown.tiles):
            assert 0 < left < right < SIDE and 0 < top < bottom < SIDE


def test_a_tile_has_its_colour_at_its_corners_and_nothing_beyond() -> None:
    for shown in WALLS:
        image = render(shown)
        for tile in shown.tiles:
            left, top, right, bottom = tile.box
            for corner in ((left, top), (right - 1, top), (left, bottom - 1), (right - 1, bottom - 1)):
                assert image.getpixel(corner) == tile.rgb
            assert image.getpixel((left - 1, top)) == shown.background
            assert max(abs(a - b) for a, b in zip(tile.rgb, COLOURS[tile.colour], strict=True)) <= 16


def test_print_stays_inside_its_tile_and_is_tall_enough() -> None:
    for shown in WALLS:
        image = render(shown)
        for tile in shown.tiles:
            inner = image.crop(tile.box)
            inked = [
                (x, y)
                for x in range(inner.width)
                for y in range(inner.height)
                if inner.getpixel((x, y)) != tile.rgb
            ]
            columns, rows = zip(*inked, strict=True)
            assert max(rows) - min(rows) + 1 >= CAPITALS
            assert min(rows) > 0 and max(rows) < inner.height - 1
            assert min(columns) > 0 and max(columns) < inner.width - 1
