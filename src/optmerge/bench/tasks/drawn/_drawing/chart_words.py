"""What can be asked and said about a chart, in words."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from optmerge.bench.tasks.drawn._data.chart_tables import trend_of
from optmerge.bench.tasks.drawn._drawing.charts import Chart, axis
from optmerge.bench.tasks.drawn._drawing.place_words import a
from optmerge.evaluate.questions import Question

KNOWN = ("value", "colour", "label", "count")
TYPES = (*KNOWN, "axis", "extreme", "peak", "difference", "sum", "above", "trend")
Maker = Callable[[random.Random, Chart], Question | None]

_MARKS: Mapping[str, tuple[str, str]] = {
    "columns": ("bar", "bars"),
    "rows": ("bar", "bars"),
    "line": ("point", "points"),
    "lines": ("line", "lines"),
    "pie": ("slice", "slices"),
}


def questions(rng: random.Random, chart: Chart) -> tuple[Question, ...]:
    """Most of what can be asked about a chart, each question once, in random order."""
    makers = [maker for maker, share in _MAKERS[chart.kind] if rng.random() < share]
    asked = {question.text: question for maker in makers if (question := maker(rng, chart))}
    found = list(asked.values())
    rng.shuffle(found)
    return tuple(found)


def value(rng: random.Random, chart: Chart) -> Question:
    """A category's value, read off its mark or the axis."""
    i = rng.randrange(len(chart.labels))
    return _ask(
        rng,
        ("what is the value of {}?", "read the value of {}.", "what value does {} have?"),
        (chart.labels[i],),
        chart.values[i],
        "value" if chart.printed else "axis",
    )


def colour(rng: random.Random, chart: Chart) -> Question:
    """The colour of a category, or of everything alike."""
    if len(chart.colours) == 1:
        what = "is the line" if chart.kind == "line" else "are the bars"
        return _ask(rng, ("what color {}?", "which color {}?"), (what,), chart.colours[0], "colour")
    i, mark = rng.randrange(len(chart.labels)), _MARKS[chart.kind][0]
    return _ask(
        rng,
        ("what color is the {1} of {0}?", "what color does {0} have?", "which color is {0}?"),
        (chart.labels[i], mark),
        chart.colours[i],
        "colour",
    )


def label(rng: random.Random, chart: Chart) -> Question | None:
    """The category of a colour."""
    if len(chart.colours) == 1:
        return None
    i, mark = rng.randrange(len(chart.labels)), _MARKS[chart.kind][0]
    return _ask(
        rng,
        ("which label has the {} {}?", "what is the {} {} called?", "name the {} {}."),
        (chart.colours[i], mark),
        chart.labels[i],
        "label",
    )


def count(rng: random.Random, chart: Chart) -> Question | None:
    """How many categories there are; asked less of charts with few categories, which evens answers out."""
    if rng.random() > {3: 0.21, 4: 0.62}.get(len(chart.values), 1.0):
        return None
    return _ask(
        rng,
        ("how many {} are there?", "how many {} does the chart show?", "count the {}."),
        (_MARKS[chart.kind][1],),
        len(chart.values),
        "count",
    )


def extreme(rng: random.Random, chart: Chart) -> Question | None:
    """The category of the largest or the smallest value, if no other category has that value."""
    pick, word = rng.choice(((max, "largest"), (min, "smallest")))
    if chart.values.count(pick(chart.values)) > 1:
        return None
    return _ask(
        rng,
        ("which label has the {} value?", "where is the {} value?", "what has the {} value?"),
        (word,),
        chart.labels[chart.values.index(pick(chart.values))],
        "extreme",
    )


def peak(rng: random.Random, chart: Chart) -> Question:
    """The largest or smallest value."""
    pick, word = rng.choice(((max, "largest"), (min, "smallest")))
    return _ask(
        rng,
        ("what is the {} value?", "how large is the {} value?", "read the {} value."),
        (word,),
        pick(chart.values),
        "peak",
    )


def difference(rng: random.Random, chart: Chart) -> Question | None:
    """The difference of two categories, if their values differ."""
    i, j = rng.sample(range(len(chart.labels)), 2)
    if chart.values[i] == chart.values[j]:
        return None
    return _ask(
        rng,
        ("what is the difference between {} and {}?", "by how much do {} and {} differ?"),
        (chart.labels[i], chart.labels[j]),
        abs(chart.values[i] - chart.values[j]),
        "difference",
    )


def total(rng: random.Random, chart: Chart) -> Question:
    """Two categories added up."""
    i, j = rng.sample(range(len(chart.labels)), 2)
    return _ask(
        rng,
        ("what is the sum of {} and {}?", "how much are {} and {} together?", "add {} and {}."),
        (chart.labels[i], chart.labels[j]),
        chart.values[i] + chart.values[j],
        "sum",
    )


def above(rng: random.Random, chart: Chart) -> Question:
    """How many categories lie above or below a value that no category has; every answer is equally likely."""
    over = rng.random() < 0.5
    limits: dict[int, list[int]] = {}
    for limit in range(chart.top // 10, chart.top, chart.top // 10):
        if limit not in chart.values:
            found = sum((each > limit) == over for each in chart.values)
            limits.setdefault(found, []).append(limit)
    number = rng.choice(sorted(limits))
    return _ask(
        rng,
        ("how many {} are {} {}?", "how many of the {} lie {} {}?"),
        (_MARKS[chart.kind][1], "above" if over else "below", str(rng.choice(limits[number]))),
        number,
        "above",
    )


def trend(rng: random.Random, chart: Chart) -> Question | None:
    """How a line goes on; where there are two lines, the line is named by its colour or its label."""
    row = rng.randrange(len(chart.rows))
    course = trend_of(chart.rows[row], step=0)
    if course is None:
        return None
    name = "line"
    if len(chart.rows) > 1:
        name = rng.choice((f"{chart.colours[row]} line", f"line of {chart.labels[row]}"))
    wordings = ("which way does the {} go?", "what is the trend of the {}?", "how does the {} change?")
    return _ask(rng, wordings, (name,), course, "trend")


def ahead(rng: random.Random, chart: Chart) -> Question:
    """Which of two lines starts or ends higher or lower."""
    (end, verb), (pick, word) = (
        rng.choice(((0, "starts"), (-1, "ends"))),
        rng.choice(((max, "higher"), (min, "lower"))),
    )
    heights = [row[end] for row in chart.rows]
    return _ask(
        rng,
        ("which line {} {}?", "what is the line called that {} {}?"),
        (verb, word),
        chart.labels[heights.index(pick(heights))],
        "extreme",
    )


_BARS: tuple[tuple[Maker, float], ...] = (
    (value, 1),
    (value, 1),
    (colour, 0.8),
    (label, 0.8),
    (count, 0.9),
    (extreme, 0.6),
    (peak, 0.4),
    (difference, 0.5),
    (total, 0.4),
    (above, 0.5),
)
_MAKERS: Mapping[str, tuple[tuple[Maker, float], ...]] = {
    "columns": _BARS,
    "rows": _BARS,
    "pie": _BARS[:-1],
    "line": (
        (value, 1),
        (value, 0.5),
        (colour, 1),
        (count, 1),
        (extreme, 0.5),
        (peak, 0.5),
        (difference, 0.4),
        (trend, 1),
    ),
    "lines": ((colour, 1), (colour, 1), (label, 1), (label, 1), (trend, 1), (trend, 1), (ahead, 1)),
}
"""Kind of chart → makers of questions, and how often each is tried."""


def captions(rng: random.Random, chart: Chart) -> tuple[Question, ...]:
    """What kind of chart it is, with colours; what is printed; one mark, or how lines go on."""
    return (
        Question("describe the picture.", (_description(chart),), "caption"),
        Question("say what is printed.", (", ".join(_printed(chart)),), "caption"),
        _steps(rng, chart) if chart.kind in ("line", "lines") else _mark(rng, chart),
    )


def _description(chart: Chart) -> str:
    pairs = [f"{name} {colour}" for name, colour in zip(chart.labels, chart.colours, strict=False)]
    if chart.kind == "line":
        return f"a chart with a {chart.colours[0]} line over {', '.join(chart.labels)}"
    if chart.kind == "lines":
        return f"a chart with two lines, {', '.join(pairs)}"
    if chart.kind == "pie":
        return f"a pie with slices, {', '.join(pairs)}"
    way = "from left to right" if chart.kind == "columns" else "from top to bottom"
    if len(chart.colours) == 1:
        return f"a chart with {chart.colours[0]} bars, {way} {', '.join(chart.labels)}"
    return f"a chart with bars, {way} {', '.join(pairs)}"


def _printed(chart: Chart) -> list[str]:
    """Labels with their values, or labels and the axis."""
    if chart.printed:
        return [f"{name} {number}" for name, number in zip(chart.labels, chart.values, strict=True)]
    return [*chart.labels, *axis(chart).values()]


def _mark(rng: random.Random, chart: Chart) -> Question:
    """One bar or slice: its colour, label and rough size."""
    i, mark = rng.randrange(len(chart.labels)), _MARKS[chart.kind][0]
    size = (
        "small" if 3 * chart.values[i] < chart.top else "big" if 3 * chart.values[i] > 2 * chart.top else ""
    )
    what = " ".join(f"{size} {chart.colours[i % len(chart.colours)]} {mark}".split())
    around = [chart.labels[j] for j in (i - 1, i + 1) if 0 <= j < len(chart.labels)]
    beside = f", beside {' and '.join(around)}" if chart.kind != "pie" else ""
    return Question(f"look at {chart.labels[i]}.", (a(what) + beside,), "caption")


def _steps(rng: random.Random, chart: Chart) -> Question:
    """A line's ups and downs."""
    row = rng.randrange(len(chart.rows))
    steps = ["up" if after > before else "down" for before, after in pairwise(chart.rows[row])]
    name = f"{chart.colours[row]} line" if len(chart.rows) > 1 else "line"
    return Question(f"follow the {name}.", (", ".join(steps),), "caption")


def _ask(
    rng: random.Random, wordings: Sequence[str], gaps: Sequence[str], answer: int | str, type: str
) -> Question:
    return Question(rng.choice(wordings).format(*gaps), (str(answer),), type)
