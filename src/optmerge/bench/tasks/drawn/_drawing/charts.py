"""Charts: bars upright or level, lines, pies; a chart is data, `render` makes it a picture.

Values are tenths of the axis' upper end, so that they can be read off the axis; values of a pie are per cent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.fonts import font
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, Colour

KINDS = ("columns", "rows", "line", "lines", "pie")
TOPS = (10, 50, 100)
"""Upper ends of value axes."""
NARROW = "roboto"
"""The family for long labels."""
FAMILIES = (NARROW, "roboto bold", "sans", "source serif bold")
SIZE = 17
"""Em size of everything printed; capitals are 12 pixels tall."""
_SCALE = 2  # slanted marks are drawn larger and averaged down
_PAPERS: tuple[tuple[Colour, Colour], ...] = (
    ((255, 255, 255), (30, 30, 30)),
    ((250, 247, 238), (50, 36, 24)),
    ((238, 243, 250), (20, 30, 70)),
    ((240, 248, 240), (16, 56, 36)),
    ((236, 236, 236), (10, 10, 10)),
)
_LINE = 16  # pixels a line of print takes
_TICK = 2


@dataclass(frozen=True)
class Look:
    """Font family, number of the paper, a bar's share of its room in per cent, whether a grid is drawn."""

    family: str
    paper: int
    fill: int
    grid: bool


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Args:
        kind: one of `KINDS`.
        labels: of the categories; of both series where the kind is "lines".
        rows: values in the order of the labels; one row for each of two "lines".
        colours: names, one a label; a single one for bars all alike, and for the only line.
        top: where the value axis ends; one of `TOPS`, 100 for a pie.
        printed: values stand at the marks; else there is an axis.
        start: degrees at which a pie's first slice begins; 0 for everything else.
        look: font, paper, width of bars and grid.
    """

    kind: str
    labels: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    colours: tuple[str, ...]
    top: int
    printed: bool
    start: int
    look: Look

    @property
    def values(self) -> tuple[int, ...]:
        """Values of the first row, in the order of the labels."""
        return self.rows[0]


def random_look(rng: random.Random) -> Look:
    """Any family, paper and bar width."""
    return Look(
        rng.choice(FAMILIES), rng.randrange(len(_PAPERS)), rng.choice((55, 65, 75)), rng.random() < 0.6
    )


def render(chart: Chart) -> Image.Image:
    """The picture of a chart: RGB, `SIDE`×`SIDE`."""
    paper, _ = _PAPERS[chart.look.paper]
    if chart.kind in ("columns", "rows"):
        image = Image.new("RGB", (SIDE, SIDE), paper)
        (_columns if chart.kind == "columns" else _rows)(image, chart)
        return image
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), paper)
    return {"pie": _pie, "line": _line, "lines": _lines}[chart.kind](image, chart)


def bars(chart: Chart) -> list[tuple[float, float, float, float]]:
    """The bars of columns or rows: left, top, right, bottom in pixels."""
    first, last, near, far = _plot(chart)
    room = (last - first) / len(chart.labels)
    inset = room * (1 - chart.look.fill / 100) / 2
    found = []
    for i, value in enumerate(chart.values):
        a, b = first + i * room + inset, first + (i + 1) * room - inset
        end = near + (far - near) * value / chart.top
        found.append((a, end, b, near) if chart.kind == "columns" else (near, a, end, b))
    return found


def points(chart: Chart, row: int = 0) -> list[tuple[float, float]]:
    """The points of a line in pixels."""
    first, last, near, far = _plot(chart)
    number = len(chart.rows[row])
    if chart.kind == "line":  # amid the labels below
        room = (last - first) / number
        first += room / 2
    else:
        first, room = first + 6, (last - first - 12) / (number - 1)
    return [
        (first + i * room, near + (far - near) * value / chart.top) for i, value in enumerate(chart.rows[row])
    ]


def axis(chart: Chart) -> dict[int, str]:
    """Tenth of the value axis → what is printed at it; empty where there is no axis."""
    if chart.printed or chart.kind == "lines":
        return {}
    tenths = (0, 10) if chart.kind == "rows" and chart.top == 100 else (0, 5, 10)  # no room for "50" there
    return {tenth: str(chart.top * tenth // 10) for tenth in tenths}


def _plot(chart: Chart) -> tuple[float, float, float, float]:
    """First and last pixel along the categories, then the pixels of zero and of the top along the values."""
    length = font(chart.look.family, SIZE).getlength
    label, number = max(map(length, chart.labels)), length(str(chart.top))
    if chart.kind == "lines":
        return 2, SIDE - 4 - label, SIDE - 8, 8
    if chart.kind == "rows":
        if chart.printed:
            return 2, SIDE - 2, label + 5, SIDE - number - 4
        return 2, SIDE - _LINE - 3, label + 5, SIDE - number / 2 - 1
    if chart.printed:
        return 0, SIDE, SIDE - _LINE - 2, _LINE + 2
    return number + _TICK + 3, SIDE - 2, SIDE - _LINE - 2, 9


def _columns(image: Image.Image, chart: Chart) -> None:
    pen, letters, ink = ImageDraw.Draw(image), font(chart.look.family, SIZE), _PAPERS[chart.look.paper][1]
    first, last, near, _ = _plot(chart)
    _grid(pen, chart, 1)
    _upright_axis(pen, chart)
    for (left, top, right, bottom), label, value, colour in zip(
        bars(chart), chart.labels, chart.values, _colours(chart), strict=True
    ):
        pen.rectangle((round(left), round(top), round(right), round(bottom)), COLOURS[colour])
        middle = (left + right) / 2
        _print(pen, (middle, SIDE - _LINE / 2), label, letters, ink)
        if chart.printed:
            _print(pen, (middle, top - _LINE / 2), str(value), letters, ink)
    pen.line((first, near, last, near), ink, 2)


def _rows(image: Image.Image, chart: Chart) -> None:
    pen, letters, ink = ImageDraw.Draw(image), font(chart.look.family, SIZE), _PAPERS[chart.look.paper][1]
    first, last, near, far = _plot(chart)
    if not chart.printed:
        for tenth in range(11):
            x = near + (far - near) * tenth / 10
            if tenth % 5 == 0 and chart.look.grid:
                pen.line((x, first, x, last), _faint(chart), 1)
            if tenth in axis(chart):
                _print(pen, (x, SIDE - _LINE / 2), axis(chart)[tenth], letters, ink)
            pen.line((x, last, x, last + _TICK), ink, 1)
        pen.line((near, last, far, last), ink, 1)
    for (left, top, right, bottom), label, value, colour in zip(
        bars(chart), chart.labels, chart.values, _colours(chart), strict=True
    ):
        pen.rectangle((round(left), round(top), round(right), round(bottom)), COLOURS[colour])
        middle = (top + bottom) / 2
        _print(pen, (near - 3 - letters.getlength(label) / 2, middle), label, letters, ink)
        if chart.printed:
            _print(pen, (right + 3 + letters.getlength(str(value)) / 2, middle), str(value), letters, ink)
    pen.line((near, first, near, last), ink, 2)


def _line(image: Image.Image, chart: Chart) -> Image.Image:
    pen = ImageDraw.Draw(image)
    _grid(pen, chart, _SCALE)
    _stroke(pen, points(chart), COLOURS[chart.colours[0]])
    image = image.reduce(_SCALE)
    pen, letters, ink = ImageDraw.Draw(image), font(chart.look.family, SIZE), _PAPERS[chart.look.paper][1]
    first, last, near, _ = _plot(chart)
    _upright_axis(pen, chart)
    for (x, _y), label in zip(points(chart), chart.labels, strict=True):
        _print(pen, (x, SIDE - _LINE / 2), label, letters, ink)
    pen.line((first, near, last, near), ink, 2)
    return image


def _lines(image: Image.Image, chart: Chart) -> Image.Image:
    pen = ImageDraw.Draw(image)
    for row, colour in enumerate(chart.colours):
        _stroke(pen, points(chart, row), COLOURS[colour])
    image = image.reduce(_SCALE)
    pen, letters, ink = ImageDraw.Draw(image), font(chart.look.family, SIZE), _PAPERS[chart.look.paper][1]
    first, last, near, far = _plot(chart)
    for row, label in enumerate(chart.labels):
        y = points(chart, row)[-1][1]
        _print(pen, (SIDE - 1 - letters.getlength(label) / 2, min(max(y, 8), SIDE - 8)), label, letters, ink)
    pen.line((first, far, first, near, last, near), ink, 2)
    return image


def _pie(image: Image.Image, chart: Chart) -> Image.Image:
    pen, centre = ImageDraw.Draw(image), SIDE / 2
    reach, paper = _SCALE * (centre - 2), _PAPERS[chart.look.paper][0]
    box = (_SCALE * centre - reach, _SCALE * centre - reach, _SCALE * centre + reach, _SCALE * centre + reach)
    edges = slices(chart)
    for (first, last), colour in zip(edges, chart.colours, strict=True):
        pen.pieslice(box, first, last, COLOURS[colour], paper, 2 * _SCALE)
    image = image.reduce(_SCALE)
    pen, letters = ImageDraw.Draw(image), font(chart.look.family, SIZE)
    for (first, last), label, value, colour in zip(
        edges, chart.labels, chart.values, chart.colours, strict=True
    ):
        middle = math.radians((first + last) / 2)
        x, y = centre + 32 * math.cos(middle), centre + 32 * math.sin(middle)
        red, green, blue = COLOURS[colour]
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 120 else "white"
        _print(pen, (x, y - _LINE / 2 + 1), label, letters, ink)
        _print(pen, (x, y + _LINE / 2 - 1), str(value), letters, ink)
    return image


def slices(chart: Chart) -> list[tuple[float, float]]:
    """The first and last angle of every slice, clockwise in degrees."""
    ends = [chart.start + 3.6 * sum(chart.values[:i]) for i in range(len(chart.values) + 1)]
    return list(pairwise(ends))


def _grid(pen: ImageDraw.ImageDraw, chart: Chart, scale: int) -> None:
    """Level lines at the axis' numbers, if the chart is to have them."""
    first, last, near, far = _plot(chart)
    for tenth in axis(chart) if chart.look.grid else ():
        y = near + (far - near) * tenth / 10
        pen.line((scale * first, scale * y, scale * last, scale * y), _faint(chart), scale)


def _upright_axis(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Zero, half and top at the left, a tick for every tenth; nothing where the values are printed."""
    if chart.printed:
        return
    ink, letters = _PAPERS[chart.look.paper][1], font(chart.look.family, SIZE)
    first, _, near, far = _plot(chart)
    for tenth in range(11):
        y = near + (far - near) * tenth / 10
        if text := axis(chart).get(tenth):
            _print(pen, (first - _TICK - 1 - letters.getlength(text) / 2, y), text, letters, ink)
        pen.line((first - _TICK, y, first, y), ink, 1)
    pen.line((first, near, first, far), ink, 1)


def _stroke(pen: ImageDraw.ImageDraw, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
    scaled = [(_SCALE * x, _SCALE * y) for x, y in corners]
    pen.line(scaled, colour, 3 * _SCALE, joint="curve")
    for x, y in scaled:
        pen.ellipse((x - 4 * _SCALE, y - 4 * _SCALE, x + 4 * _SCALE, y + 4 * _SCALE), colour)


def _print(
    pen: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    text: str,
    letters: ImageFont.FreeTypeFont,
    ink: Colour | str,
) -> None:
    pen.text((centre[0], centre[1] + 6), text, ink, letters, "ms")  # half of a capital's 12 pixels


def _colours(chart: Chart) -> tuple[str, ...]:
    return chart.colours * (len(chart.labels) if len(chart.colours) == 1 else 1)


def _faint(chart: Chart) -> Colour:
    paper, ink = _PAPERS[chart.look.paper]
    red, green, blue = ((4 * a + b) // 5 for a, b in zip(paper, ink, strict=True))
    return red, green, blue
