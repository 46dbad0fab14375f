"""Composition: questions that need two capabilities at once, which nothing is trained on.

A question's type names both. Words are only those that the trained tasks teach; pictures are made by the
other tasks' generators from this task's own random numbers, in the same split, or are of a kind that no
training shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from optmerge.bench.drawing import gallery, shapes, strokes, tiles
from optmerge.bench.drawing.gallery import Framed
from optmerge.bench.drawing.words import box_words, unique
from optmerge.bench.scoring import choices, metric
from optmerge.bench.scoring.boxes import iou_at
from optmerge.bench.scoring.vqa import exact_match
from optmerge.bench.tasks import grounding
from optmerge.bench.tasks.registry import Metric, Question, Scene, Split, Task, held_apart, register

Asked = Iterator[tuple[str, str, str]]
"""(type, question, answer)"""
_FIND = ("where is the {}?", "find the {}.", "locate the {}.", "give the box of the {}.")
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


_KINDS: Mapping[str, Kind] = {
    "tiles": Kind(tiles.wall, tiles.render, _ask_tiles),
    "shapes": Kind(_plan_shapes, lambda shown: shapes.render(shown.items, shown.style), _ask_shapes),
    "figures": Kind(_plan_figures, lambda shown: gallery.render(shown.each, shown.style), _ask_figures),
}
_METRICS: Mapping[str, Metric] = {
    "vqa+ocr": metric(exact_match),
    "grounding+ocr": iou_at(0.5),
    "grounding+geometry": iou_at(0.5),
    "vqa+geometry": choices.accuracy,
}


def accuracy(prediction: str, question: Question) -> float:
    """The score that the question's type calls for: a box's IoU, a number, or the very words."""
    return _METRICS[question.type](prediction, question)


register(
    Task(
        name="composition",
        title="Composition",
        version=1,
        types=tuple(_METRICS),
        known=(),
        plan=plan,
        draw=draw,
        metrics={"accuracy": accuracy},
        trained=False,
    )
)
