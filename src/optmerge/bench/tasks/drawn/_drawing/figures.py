"""Geometric figures, true to their angles and nearly to their lengths, with what is printed on them.

Every function makes a `Figure` of numbers, letters and a `Layout`; labels come in the order of the numbers,
then the letters. An angle that is asked for is labelled "x" or "y".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.strokes import (
    Figure,
    Label,
    Point,
    beside,
    direction,
    half_size,
    inside,
    moved,
    sides,
)

_ARC = 11.0  # radius of the arc that marks an angle
_GAP = 3.0  # pixels between a label and the lines around it
_EDGE = 3.0  # how near to the picture's edge long lines end


@dataclass(frozen=True)
class Layout:
    """Where a figure lies.

    Args:
        turn: degrees clockwise; what is turned depends on the figure.
        flip: upside down.
        mirror: left and right exchanged.
        box: left, top, right, bottom in pixels; the figure without its labels fits into it.
    """

    turn: int
    flip: bool
    mirror: bool
    box: tuple[int, int, int, int]


def triangle_of_angles(texts: Sequence[str], angles: Sequence[int], layout: Layout, equal: bool) -> Figure:
    """A triangle with a text at each corner (left, right, apex).

    Args:
        texts: what is printed at the corners; "" for nothing, without an arc.
        angles: at the corners, in degrees.
        layout: `turn` tilts the base.
        equal: puts ticks on the two sides that lie between the odd angle and the two equal ones.
    """
    left, right = (math.radians(angle) for angle in angles[:2])
    long = math.sin(right) / math.sin(left + right)
    corners = _fitted([(0, 0), (1, 0), (long * math.cos(left), -long * math.sin(left))], layout)
    arcs = [
        _arc(corner, *(other for other in corners if other is not corner))
        for corner, text in zip(corners, texts, strict=True)
        if text
    ]
    ticks: list[tuple[Point, Point]] = []
    if equal:
        odd = next(i for i in range(3) if angles.count(angles[i]) == 1)
        ticks = [_tick(corners[odd], corners[i]) for i in range(3) if i != odd]
    labels = tuple(_off_base(corners, texts))
    return Figure((*sides(corners), *ticks), tuple(arcs), area=tuple(corners), labels=labels)


def triangle_of_sides(lengths: Sequence[int], letters: str, layout: Layout) -> Figure:
    """A triangle with its lengths (left side, right side, base) and letters (left, right, apex)."""
    left, right, base = lengths
    x = (left**2 + base**2 - right**2) / (2 * base)
    corners = _fitted([(0, 0), (base, 0), (x, -math.sqrt(left**2 - x**2))], layout)
    a, b, apex = corners
    labels = [
        beside(line, other, str(length))
        for line, other, length in (
            ((a, apex), b, left),
            ((b, apex), a, right),
            ((a, b), apex, base),
        )
    ]
    labels += _off_base(corners, letters) if letters else []
    return Figure(sides(corners), area=tuple(corners), labels=tuple(labels))


def right_triangle(lengths: Sequence[int], letters: str, layout: Layout) -> Figure:
    """A right triangle on a level base: lengths of base and height; letters at the right angle, base, top."""
    wide, tall = _softened(lengths[0], lengths[1])
    corner, foot, top = corners = _fitted([(0, 0), (wide, 0), (0, -tall)], layout)
    x, y = math.copysign(9, foot[0] - corner[0]), math.copysign(9, top[1] - corner[1])
    mark = ((corner[0] + x, corner[1]), (corner[0] + x, corner[1] + y), (corner[0], corner[1] + y))
    labels = (
        beside((corner, foot), top, str(lengths[0])),
        beside((corner, top), foot, str(lengths[1])),
        *(_diagonal(at, corners, letter) for at, letter in zip(corners, letters, strict=False)),
    )
    return Figure((*sides(corners), mark[:2], mark[1:]), area=tuple(corners), labels=labels)


def rectangle(lengths: Sequence[int], letters: str, layout: Layout) -> Figure:
    """A level rectangle: length of a level side, then of an upright one; a square where only one is given.

    The labelled sides are the lower and the left one, before flipping and mirroring; letters go round from
    where these two meet.
    """
    wide, tall = _softened(lengths[0], lengths[-1])
    corners = _fitted([(0, 0), (wide, 0), (wide, -tall), (0, -tall)], layout)
    centre = ((corners[0][0] + corners[2][0]) / 2, (corners[0][1] + corners[2][1]) / 2)
    lines = ((corners[0], corners[1]), (corners[0], corners[3]))
    labels = [beside(line, centre, str(length)) for line, length in zip(lines, lengths, strict=False)]
    labels += [_diagonal(at, corners, letter) for at, letter in zip(corners, letters, strict=False)]
    return Figure(sides(corners), area=tuple(corners), labels=tuple(labels))


def polygon(corners: int, length: int, layout: Layout) -> Figure:
    """A regular polygon with its side length at one side; that side faces `layout.turn`."""
    left, top, right, bottom = layout.box
    centre, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
    first = layout.turn - 180 / corners
    points = [moved(centre, first + 360 * i / corners, radius) for i in range(corners)]
    label = beside((points[0], points[1]), centre, str(length))
    return Figure(sides(points), dots=tuple(points), area=tuple(points), labels=(label,))


def circle(length: int, across: bool, layout: Layout) -> Figure:
    """A circle with the length of its radius, or of its diameter, in the direction `layout.turn`."""
    left, top, right, bottom = layout.box
    centre, radius = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
    end = moved(centre, layout.turn, radius)
    start = moved(centre, layout.turn + 180, radius) if across else centre
    label = beside((start, end), moved(centre, layout.turn + 90, 1), str(length), gap=6)
    return Figure(((start, end),), rings=((centre, radius),), dots=(centre,), labels=(label,))


def rays(texts: Sequence[str], angles: Sequence[int], layout: Layout) -> Figure:
    """Angles side by side on a straight line, the first at the left; texts may be ""."""
    left, top, right, bottom = layout.box
    at = ((left + right) / 2, top if layout.flip else bottom)
    sign = -1 if layout.flip else 1
    start = layout.turn + 180
    edges = [start + sign * sum(angles[:i]) for i in range(len(angles) + 1)]
    spans = [(min(pair), max(pair)) for pair in pairwise(edges)]
    lines = tuple((at, _to_edge(at, edge)) for edge in edges)
    labels, arcs = _in_sectors([(at, span, text) for span, text in zip(spans, texts, strict=True)])
    return Figure(lines, arcs, dots=(at,), labels=labels)


def crossing(texts: Sequence[str], angle: int, layout: Layout) -> Figure:
    """Two lines that cross at an angle: texts in the four angles clockwise, starting with `angle`."""
    left, top, right, bottom = layout.box
    at = ((left + right) / 2, (top + bottom) / 2)
    edges = [layout.turn + edge for edge in (0, angle, 180, 180 + angle, 360)]
    lines = tuple((_to_edge(at, edge), _to_edge(at, edge + 180)) for edge in edges[:2])
    spans = pairwise(edges)
    labels, arcs = _in_sectors([(at, span, text) for span, text in zip(spans, texts, strict=True)])
    return Figure(lines, arcs, labels=labels)


def parallels(texts: Sequence[str], angle: int, layout: Layout) -> Figure:
    """A line across two parallel ones: texts in the four angles clockwise at the upper, then the lower.

    The first angle, between the first line's right half and the crossing line's lower half, is `angle`.
    """
    left, top, right, bottom = layout.box
    middle, slope = ((left + right) / 2, (top + bottom) / 2), layout.turn + angle
    half = (bottom - top) / 2 / math.sin(math.radians(angle))
    upper, lower = moved(middle, slope, -half), moved(middle, slope, half)
    lines = [(_to_edge(at, layout.turn), _to_edge(at, layout.turn + 180)) for at in (upper, lower)]
    lines.append((_to_edge(upper, slope + 180), _to_edge(lower, slope)))
    edges = [layout.turn, slope, layout.turn + 180, slope + 180, layout.turn + 360]
    spans = list(pairwise(edges)) * 2
    ats = [upper] * 4 + [lower] * 4
    labels, arcs = _in_sectors(list(zip(ats, spans, texts, strict=True)))
    return Figure(tuple(lines), arcs, labels=labels)


def _in_sectors(
    sectors: Sequence[tuple[Point, tuple[float, float], str]],
) -> tuple[tuple[Label, ...], tuple[tuple[Point, float, float, float], ...]]:
    """Labels and arcs of the angles (vertex, (first, last direction), text) that have a text."""
    marked = [(at, span, text) for at, span, text in sectors if text]
    return (
        tuple(_between(at, *span, text) for at, span, text in marked),
        tuple((at, _ARC, *span) for at, span, _ in marked),
    )


def _between(at: Point, first: float, last: float, text: str) -> Label:
    """A label between two rays, as near to their vertex as it fits, outside the arc."""
    wide, tall = half_size(text)
    span = math.radians(last - first)
    rays = direction(first), direction(last)
    near = [wide * abs(ray[1]) + tall * abs(ray[0]) + _GAP for ray in rays]
    if span < math.pi / 2:  # touches both rays
        x, y = ((near[1] * rays[0][i] + near[0] * rays[1][i]) / math.sin(span) for i in (0, 1))
    else:
        bisector = direction((first + last) / 2)
        off = max(near) / math.sin(span / 2)
        x, y = off * bisector[0], off * bisector[1]
    length = math.hypot(x, y)
    clear = _ARC + _GAP + (wide * abs(x) + tall * abs(y)) / length
    stretch = max(1.0, clear / length)
    return inside((at[0] + stretch * x, at[1] + stretch * y), text)


def _to_edge(start: Point, degrees: float) -> Point:
    """Where the ray from `start` ends, just before it leaves the picture."""
    reach = 2.0 * SIDE
    for position, step in zip(start, direction(degrees), strict=True):
        if abs(step) > 1e-9:
            reach = min(reach, ((SIDE - _EDGE if step > 0 else _EDGE) - position) / step)
    return moved(start, degrees, reach)


def _fitted(points: Sequence[Point], layout: Layout) -> list[Point]:
    """The points turned, flipped, mirrored, then scaled into the middle of the box."""
    x, y = direction(layout.turn)
    turned = [(px * x - py * y, px * y + py * x) for px, py in points]
    turned = [(-px if layout.mirror else px, -py if layout.flip else py) for px, py in turned]
    columns, rows = zip(*turned, strict=True)
    left, top, right, bottom = layout.box
    wide, tall = max(columns) - min(columns), max(rows) - min(rows)
    scale = min((right - left) / wide, (bottom - top) / tall)
    dx = (left + right - scale * (min(columns) + max(columns))) / 2
    dy = (top + bottom - scale * (min(rows) + max(rows))) / 2
    return [(scale * px + dx, scale * py + dy) for px, py in turned]


def _softened(wide: float, tall: float) -> tuple[float, float]:
    """The same proportions, at most 2 to 1, so that the short side has room for its label."""
    return max(wide, tall / 2), max(tall, wide / 2)


def _off_base(corners: Sequence[Point], texts: Sequence[str]) -> list[Label]:
    """Labels off a triangle's corners (two on its base, apex): the apex's on its side, the others beyond."""
    (x1, y1), (x2, y2), (x3, y3) = corners
    up = y3 < (y1 + y2) / 2
    lack = max(0.0, half_size(texts[0])[0] + half_size(texts[1])[0] + 5 - abs(x2 - x1))
    push = math.copysign(lack / 2, x2 - x1)  # a short base's labels stand apart
    labels = []
    for x, y, text, below in (
        (x1 - push, y1, texts[0], up),
        (x2 + push, y2, texts[1], up),
        (x3, y3, texts[2], not up),
    ):
        off = half_size(text)[1] + _GAP
        labels.append(inside((x, y + off if below else y - off), text))
    return [label for label in labels if label.text]


def _diagonal(corner: Point, corners: Sequence[Point], text: str) -> Label:
    """A label off a corner, away from the box around all corners."""
    columns, rows = zip(*corners, strict=True)
    x = 9.0 if corner[0] > (min(columns) + max(columns)) / 2 else -9.0
    y = 9.0 if corner[1] > (min(rows) + max(rows)) / 2 else -9.0
    return inside((corner[0] + x, corner[1] + y), text)


def _arc(corner: Point, one: Point, other: Point) -> tuple[Point, float, float, float]:
    """The arc inside the angle at a corner."""
    first, last = (math.degrees(math.atan2(p[1] - corner[1], p[0] - corner[0])) for p in (one, other))
    if (last - first) % 360 > 180:
        first, last = last, first
    return corner, _ARC, first, first + (last - first) % 360


def _tick(start: Point, end: Point) -> tuple[Point, Point]:
    """A short stroke across the middle of a line."""
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    across = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0])) + 90
    return moved(middle, across, 5), moved(middle, across + 180, 5)
