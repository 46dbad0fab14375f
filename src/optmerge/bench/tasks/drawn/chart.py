"""Charts of real and made-up tables: values, extremes, differences, sums, counts, trends, colours, labels."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from optmerge.bench.tasks import DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn._data import chart_tables
from optmerge.bench.tasks.drawn._drawing import chart_words, charts
from optmerge.bench.tasks.drawn._drawing.charts import TOPS, Chart, Look, random_look
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS
from optmerge.evaluate.scoring.metrics import METRICS

_SHARES = {"columns": 3.0, "rows": 3.0, "line": 2.0, "lines": 1.0, "pie": 2.0}
_REAL = 0.5  # share of the tables that are real, two lines aside
_ALPHABET = "ABCDEFGHIJKLNOPRSTUVXYZ"  # M, Q and W are too wide
_VOWELS = "AEIOU"


@dataclass(frozen=True)
class Drawn:
    """A chart, what its table is about (nothing where it's made up), and the seed of the wordings."""

    chart: Chart
    about: tuple[str, ...]
    words: int


def plan(rng: random.Random, split: Split) -> Drawn:
    """A chart at random; real tables belong to one split, and so does every chart however it looks."""

    def make(rng: random.Random) -> Drawn:
        kind = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
        chart, about = _MAKERS[kind](rng, split)
        return Drawn(chart, about, rng.getrandbits(32))

    def key(drawn: Drawn) -> object:
        chart = drawn.chart
        return chart.kind, chart.labels, chart.rows, chart.colours, chart.top, chart.printed, chart.start

    return held_apart(rng, split, make, key)


def draw(content: Drawn) -> Scene:
    """The picture and what to ask and say about it."""
    rng = random.Random(content.words)
    return Scene(
        charts.render(content.chart),
        chart_words.questions(rng, content.chart),
        chart_words.captions(rng, content.chart),
    )


Made = tuple[Chart, tuple[str, ...]]
"""A chart and what its table is about."""


def _columns(rng: random.Random, split: Split) -> Made:
    """Three short labels or up to five single letters have room side by side."""
    printed = rng.random() < 0.5
    if printed and rng.random() < 2 * _REAL - 0.1:
        return _bars(rng, "columns", rng.choice(TOPS), printed, _real(rng, split, 3))
    number = rng.randint(3, 5)
    long = printed and number == 3 and rng.random() < 0.5
    top = 10 if printed and number == 5 else rng.choice(TOPS)
    most = 9 if printed and number > 3 else 10  # "100" takes the room of two
    return _bars(rng, "columns", top, printed, _made_up(rng, number, 3 if long else 1, most))


def _rows(rng: random.Random, split: Split) -> Made:
    number, top, printed = rng.randint(3, 5), rng.choice(TOPS), rng.random() < 0.5
    real = rng.random() < _REAL + 0.1
    table = _real(rng, split, number) if real else _made_up(rng, number, rng.choice((1, 3)), 10)
    return _bars(rng, "rows", top, printed, table)


def _look(rng: random.Random, labels: tuple[str, ...]) -> Look:
    look = random_look(rng)
    return replace(look, family=charts.NARROW) if max(map(len, labels)) > 1 else look


Tenths = tuple[tuple[str, ...], tuple[str, ...], list[int]]
"""What a table is about, its labels, its values in tenths of the axis."""


def _bars(rng: random.Random, kind: str, top: int, printed: bool, table: Tenths) -> Made:
    about, labels, tenths = table
    colours = tuple(rng.sample(tuple(COLOURS), len(labels) if rng.random() < 0.7 else 1))
    values = tuple(top * tenth // 10 for tenth in tenths)
    return Chart(kind, labels, (values,), colours, top, printed, 0, _look(rng, labels)), about


def _real(rng: random.Random, split: Split, number: int) -> Tenths:
    """A real table in proportion, with at most two values equal after rounding."""
    while True:
        table = chart_tables.comparison(rng, split, number)
        largest = rng.randint(6, 10) / max(table.values)
        tenths = [max(1, round(largest * value)) for value in table.values]
        if len(set(tenths)) >= len(tenths) - 1:
            return table.about, table.labels, tenths


def _made_up(rng: random.Random, number: int, letters: int, most: int) -> Tenths:
    return (), _labels(rng, number, letters), rng.sample(range(1, most + 1), number)


def _labels(rng: random.Random, number: int, letters: int) -> tuple[str, ...]:
    """Different letters, or syllables of three that no real table has."""
    if letters == 1:
        return tuple(rng.sample(_ALPHABET, number))
    return tuple(rng.sample(_syllables(), number))


@cache
def _syllables() -> tuple[str, ...]:
    threes = ("".join(three) for three in product(_ALPHABET, _VOWELS, _ALPHABET))
    return tuple(three for three in threes if three not in chart_tables.labels())


def _line(rng: random.Random, split: Split) -> Made:
    """One line over years or single letters, following any trend."""
    trend, top = rng.choice(chart_tables.TRENDS), rng.choice(TOPS)
    about: tuple[str, ...] = ()
    if rng.random() < _REAL:
        table = chart_tables.run(rng, split, trend)
        about, labels = table.about, table.labels
        low, high = min(table.values), max(table.values)
        first = rng.randint(1, 3)
        reach = rng.randint(5, 10 - first) / (high - low)
        tenths = [first + int(reach * (value - low) + 0.5) for value in table.values]
    else:
        tenths = _course(rng, trend, rng.randint(3, 5))
        labels = tuple(sorted(rng.sample(_ALPHABET, len(tenths))))
    values = tuple(top * tenth // 10 for tenth in tenths)
    colours = (rng.choice(tuple(COLOURS)),)
    return Chart("line", labels, (values,), colours, top, False, 0, _look(rng, labels)), about


def _lines(rng: random.Random, split: Split) -> Made:
    """Two made-up lines that start and end apart."""
    number = rng.randint(3, 4)
    while True:
        one, other = (_course(rng, rng.choice(chart_tables.TRENDS), number) for _ in range(2))
        if one[0] != other[0] and abs(one[-1] - other[-1]) >= 2:
            break
    colours = tuple(rng.sample(tuple(COLOURS), 2))
    labels = _labels(rng, 2, rng.choice((1, 3)))
    look = _look(rng, labels)
    return Chart("lines", labels, (tuple(one), tuple(other)), colours, 10, False, 0, look), ()


def _course(rng: random.Random, trend: str, number: int) -> list[int]:
    """Different tenths that follow a trend."""
    ordered = sorted(rng.sample(range(1, 11), number))
    if trend in ("up then down", "down then up"):
        *rest, turn = ordered if trend == "up then down" else ordered[::-1]
        rng.shuffle(rest)
        left = rng.randint(1, len(rest) - 1)
        before, after = sorted(rest[:left]), sorted(rest[left:], reverse=True)
        return [*before, turn, *after] if trend == "up then down" else [*before[::-1], turn, *after[::-1]]
    return ordered if trend == "rising" else ordered[::-1]


def _pie(rng: random.Random, split: Split) -> Made:
    """Slices of multiples of five per cent, large enough for their label and value."""
    about: tuple[str, ...] = ()
    if rng.random() < _REAL:
        about, labels, shares = _real_shares(rng, split)
    else:
        letters = rng.choice((1, 1, 3))
        shares = rng.choice(_SPLITS_IN_3 if letters == 3 else _SPLITS)
        labels = _labels(rng, len(shares), letters)
    colours = tuple(rng.sample(tuple(COLOURS), len(labels)))
    start = 5 * rng.randrange(72)
    return Chart("pie", labels, (shares,), colours, 100, True, start, _look(rng, labels)), about


_SPLITS_IN_3 = tuple(
    (a, b, 100 - a - b) for a, b in product(range(20, 65, 5), repeat=2) if 20 <= 100 - a - b <= 60
)
_SPLITS = _SPLITS_IN_3 + tuple(
    (a, b, c, 100 - a - b - c)
    for a, b, c in product(range(15, 60, 5), repeat=3)
    if 15 <= 100 - a - b - c <= 55
)


def _real_shares(
    rng: random.Random, split: Split
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """What a real table is about, its labels, and their shares in per cent, to the next five."""
    while True:
        table = chart_tables.comparison(rng, split, 3)
        first, second = (5 * round(20 * value / sum(table.values)) for value in table.values[:2])
        shares = (first, second, 100 - first - second)
        if min(shares) >= 20:
            return table.about, table.labels, shares


_MAKERS = {"columns": _columns, "rows": _rows, "line": _line, "lines": _lines, "pie": _pie}

TASK = DrawnTask(
    name="chart",
    title="Chart",
    version=1,
    types=chart_words.TYPES,
    known=chart_words.KNOWN,
    plan=plan,
    draw=draw,
    metrics={"relaxed_accuracy": METRICS["relaxed"], "exact_match": METRICS["vqa"]},
    order=3,
    trained=True,
)
