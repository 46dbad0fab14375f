from __future__ import annotations

import random

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.placement import place


def test_boxes_are_placed_inside_and_apart() -> None:
    rng = random.Random(1)
    for _ in range(200):
        sizes = sorted((rng.randint(20, 34) for _ in range(5)), reverse=True)
        boxes = [
            (x, y, x + size, y + size) for (x, y), size in zip(place(rng, sizes, gap=3), sizes, strict=True)
        ]
        assert all(
            left >= 3 and top >= 3 and max(right, bottom) <= SIDE - 3 for left, top, right, bottom in boxes
        )
        for index, one in enumerate(boxes):
            for other in boxes[:index]:
                columns = min(one[2], other[2]) - max(one[0], other[0])
                rows = min(one[3], other[3]) - max(one[1], other[1])
                assert min(columns, rows) <= -3  # the gap lies between them one way or the other


def test_more_than_fits_is_placed_all_the_same() -> None:
    assert len(place(random.Random(0), [60] * 8)) == 8
