"""Composition: questions that need two capabilities at once, which nothing is trained on.

A question's type names both. Words are only those that the trained tasks teach; pictures are made by the
other tasks' generators from this task's own random numbers, in the same split, or are of a kind that no
training shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from optmerge.bench.tasks import DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn import chart, grounding
from optmerge.bench.tasks.drawn._drawing import charts, gallery, shapes, strokes, texts, tiles
from optmerge.bench.tasks.drawn._drawing.fonts import font
from optmerge.bench.tasks.drawn._drawing.gallery import Framed
from optmerge.bench.tasks.drawn._drawing.place_words import box_words, unique
from optmerge.evaluate.questions import Metric, Question
from optmerge.evaluate.scoring import choices, metric
from optmerge.evaluate.scoring.boxes import iou_at
from optmerge.evaluate.scoring.charts import relaxed_accuracy
from optmerge.evaluate.scoring.vqa import exact_match

Asked = Iterator[tuple[str, str, str]]
"""(type, question, answer)"""
_FIND = ("where is the {}?", "find the {}.", "locate the {}.", "give the box of the {}.")
_LONGEST = 52
"""Pixels that a word beside a bar takes at most, so that the bar has room."""
_COLOUR = ("what color is the {}?", "what is the color of the {}?")


@dataclass(frozen=True)
class Content:
    """A picture's kind, what it shows in that kind's own terms, and the seed of what is asked."""

    kind: str
    shown: Any
    seed: int


@dataclass(frozen=True)
class Kind:
    """A kind of picture: how one is planned, drawn and asked about."""

    plan: Callable[[random.Random, Split], Any]
    picture: Callable[[Any], Image.Image]
    ask: Callable[[random.Random, Any], Asked]


def plan(rng: random.Random, split: Split) -> Content:
    """A picture of any kind, as likely."""
    name = rng.choice(tuple(_KINDS))
    return Content(name, _KINDS[name].plan(rng, split), rng.getrandbits(32))


def draw(content: Content) -> Scene:
    """Picture and questions; nothing to pre-train on."""
    kind, rng = _KINDS[content.kind], random.Random(content.seed)
    asked = kind.ask(rng, content.shown)
    questions = tuple(Question(text, (answer,), type) for type, text, answer in asked)
    return Scene(kind.picture(content.shown), questions, ())


def _ask_tiles(rng: random.Random, shown: tiles.Wall) -> Asked:
    """The box of a tile by its text; the colour of another by its text, or the text by the colour."""
    found, other = rng.sample(shown.tiles, 2)
    yield "grounding+ocr", rng.choice(_FIND).format(f"shape marked {found.text}"), box_words(found.box)
    if rng.random() < 0.5:
        yield "vqa+ocr", rng.choice(_COLOUR).format(f"shape marked {other.text}"), other.colour
    else:
        wording = rng.choice(("what does the {} shape say?", "read the text on the {} shape."))
        yield "vqa+ocr", wording.format(other.colour), other.text


def _plan_shapes(rng: random.Random, split: Split) -> grounding.Content:
    """A crowded scene in which a shape with a letter has a name of its own."""
    while True:
        shown = grounding.plan(rng, split)
        if _lettered(shown):
            return shown


def _lettered(shown: grounding.Content) -> list[shapes.Item]:
    return [item for item in unique(shown.items, lambda item: item.name) if item.letter]


def _ask_shapes(rng: random.Random, shown: grounding.Content) -> Asked:
    """Colour or kind of the shape with a letter; the letter on a shape."""
    item = rng.choice([item for item in shown.items if item.letter])
    if rng.random() < 0.5:
        yield "vqa+ocr", rng.choice(_COLOUR).format(f"shape marked {item.letter}"), item.colour
    else:
        yield "vqa+ocr", f"what shape is marked {item.letter}?", item.kind
    item = rng.choice(_lettered(shown))
    wording = rng.choice(("which letter is on the {}?", "read the letter on the {}."))
    yield "vqa+ocr", wording.format(item.name), item.letter


@dataclass(frozen=True)
class Figures:
    """Small geometric figures and their style."""

    each: tuple[Framed, ...]
    style: strokes.Style


def _plan_figures(rng: random.Random, split: Split) -> Figures:
    each = held_apart(rng, split, gallery.gallery, lambda each: each)
    return Figures(each, strokes.random_style(rng))


def _ask_figures(rng: random.Random, shown: Figures) -> Asked:
    """The box of one of two like figures, by its numbers; a measure of the other, by where it is."""
    one, other = rng.sample(gallery.twins(shown.each), 2)
    words = f"{one.word} with the {gallery.numbered(one)}"
    yield "grounding+geometry", rng.choice(_FIND).format(words), box_words(gallery.box(one))
    wordings, value = rng.choice(gallery.measures(other))
    words = f"{rng.choice(gallery.sides(other, one))} {other.word}"
    yield "vqa+geometry", rng.choice(wordings).format(words), str(value)


def _plan_bars(rng: random.Random, split: Split) -> charts.Chart:
    """A chart of bars in different colours of which some are large enough to be found."""
    while True:
        shown = chart.plan(rng, split).chart
        if shown.kind in ("columns", "rows") and len(shown.colours) > 1 and len(_findable(shown)) > 1:
            return shown


def _findable(shown: charts.Chart) -> list[int]:
    """The bars that are 12 pixels wide and long at least."""
    boxes = enumerate(charts.bars(shown))
    return [i for i, (left, top, right, bottom) in boxes if min(right - left, bottom - top) >= 12]


def _ask_bars(rng: random.Random, shown: charts.Chart) -> Asked:
    """The box of a bar by its label or its value; the colour of one by its value."""
    row = rng.choice(_findable(shown))
    left, top, right, bottom = (round(edge) for edge in charts.bars(shown)[row])
    words = rng.choice([f"bar of {shown.labels[row]}", *_by_value(shown, row)])
    yield "grounding+chart", rng.choice(_FIND).format(words), box_words((left, top, right, bottom))
    rows = [row for row in range(len(shown.labels)) if _by_value(shown, row)]
    if rows:
        row = rng.choice(rows)
        words = rng.choice(_by_value(shown, row))
        yield "vqa+chart", rng.choice(_COLOUR).format(words), shown.colours[row]


def _by_value(shown: charts.Chart, row: int) -> list[str]:
    """What only that bar is called by its value."""
    value, found = shown.values[row], []
    if shown.values.count(value) == 1:
        found += [f"bar with the value {value}"] * shown.printed
        found += ["bar with the largest value"] * (value == max(shown.values))
        found += ["bar with the smallest value"] * (value == min(shown.values))
    return found


def _plan_words(rng: random.Random, split: Split) -> charts.Chart:
    """Bars named by words longer than a chart's usual labels, the values printed."""
    names: dict[str, None] = {}
    while len(names) < 3:
        name = texts.word(rng, split, longest=5)
        if len(name) > 3 and font(charts.NARROW, charts.SIZE).getlength(name) <= _LONGEST:
            names[name] = None
    top, look = rng.choice((10, 50)), replace(charts.random_look(rng), family=charts.NARROW)
    values = tuple(top * tenth // 10 for tenth in rng.sample(range(2, 11), 3))
    colours = tuple(rng.sample(tuple(shapes.COLOURS), 3))
    return charts.Chart("rows", tuple(names), (values,), colours, top, True, 0, look)


def _ask_words(rng: random.Random, shown: charts.Chart) -> Asked:
    """The value of a bar by its word; the word of a bar by its size or colour."""
    one, other = rng.sample(range(3), 2)
    wording = rng.choice(("what is the value of {}?", "read the value of {}."))
    yield "chart+ocr", wording.format(shown.labels[one]), str(shown.values[one])
    extremes = {max(shown.values): "largest", min(shown.values): "smallest"}
    words = f"{shown.colours[other]} bar"
    if shown.values[other] in extremes:
        words = rng.choice((words, f"{extremes[shown.values[other]]} value"))
    yield "chart+ocr", f"which label has the {words}?", shown.labels[other]


_KINDS: Mapping[str, Kind] = {
    "bars": Kind(_plan_bars, charts.render, _ask_bars),
    "words": Kind(_plan_words, charts.render, _ask_words),
    "tiles": Kind(tiles.wall, tiles.render, _ask_tiles),
    "shapes": Kind(_plan_shapes, lambda shown: shapes.render(shown.items, shown.style), _ask_shapes),
    "figures": Kind(_plan_figures, lambda shown: gallery.render(shown.each, shown.style), _ask_figures),
}
_METRICS: Mapping[str, Metric] = {
    "vqa+ocr": metric(exact_match),
    "grounding+ocr": iou_at(0.5),
    "chart+ocr": metric(relaxed_accuracy),
    "grounding+chart": iou_at(0.5),
    "vqa+chart": metric(exact_match),
    "grounding+geometry": iou_at(0.5),
    "vqa+geometry": choices.accuracy,
}


def accuracy(prediction: str, question: Question) -> float:
    """The score that the question's type calls for: a box's IoU, a number, or the very words."""
    return _METRICS[question.type](prediction, question)


TASK = DrawnTask(
    name="composition",
    title="Composition",
    version=1,
    types=tuple(_METRICS),
    plan=plan,
    draw=draw,
    metrics={"accuracy": accuracy},
    order=6,
)
