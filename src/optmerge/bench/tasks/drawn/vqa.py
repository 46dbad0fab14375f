"""VQA: questions about one shape of easy-VQA, or about several drawn ones.

Half the scenes are real pictures of the easy-VQA data set with its own questions and splits; the other half
are drawn, and held apart by which shapes, colours and sizes come together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageChops

from optmerge.bench.tasks import SIDE, DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn._data import easy_vqa
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.place_words import PLACES, a, place_of
from optmerge.bench.tasks.drawn._drawing.placement import place
from optmerge.bench.tasks.drawn._drawing.question_makers import TYPES, questions
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, Item, Style, render, style, tint
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.metrics import METRICS

ITEMS = (2, 5)
"""Fewest and most shapes in a drawn scene."""
BIG = 30
"""Widths in pixels from which a shape is called big; the ranges below keep clear of it."""
_SMALL, _LARGE = (22, 27), (36, 42)
_SMALL_CROWDED, _LARGE_CROWDED = (20, 24), (32, 36)
"""Ranges of widths, the latter where there are more than three shapes; 1.3 times apart."""
_Trait = tuple[str, str, bool]
"""Kind, colour, whether it is big."""


@dataclass(frozen=True)
class Real:
    """A picture of easy-VQA by its number; the seed decides which of its questions are asked."""

    image: int
    split: Split
    seed: int


@dataclass(frozen=True)
class Drawn:
    """Shapes and how they look; the seed decides what is asked."""

    items: tuple[Item, ...]
    style: Style
    seed: int


def plan(rng: random.Random, split: Split) -> Real | Drawn:
    """A real or a drawn scene, as likely."""
    if rng.random() < 0.5:
        return Real(rng.choice(_images(split)), split, rng.getrandbits(32))
    traits = held_apart(rng, split, _traits, sorted)
    return Drawn(_items(rng, traits), style(rng, FAMILIES), rng.getrandbits(32))


def draw(content: Real | Drawn) -> Scene:
    """Picture, questions and captions of a scene."""
    rng = random.Random(content.seed)
    if isinstance(content, Drawn):
        picture = render(content.items, content.style)
        return Scene(picture, questions(rng, content.items), _captions(rng, content.items))
    return _real(rng, content)


def _traits(rng: random.Random) -> tuple[_Trait, ...]:
    """What each shape is; one to three of them share a kind or a colour, so that counts differ."""
    number = rng.randint(*ITEMS)
    kinds, colours = rng.choices(KINDS, k=number), rng.choices(tuple(COLOURS), k=number)
    shared = rng.choice((kinds, colours))
    alike = rng.randint(1, min(number, 3))
    shared[:alike] = [shared[0]] * alike
    big = [rng.random() < 0.5 for _ in range(number)]
    if number > 3:
        big[2:] = [False] * (number - 2)  # more wouldn't fit
    return tuple(zip(kinds, colours, big, strict=True))


def _items(rng: random.Random, traits: tuple[_Trait, ...]) -> tuple[Item, ...]:
    """Sizes and places; big ones are at least 1.3 times as wide as small ones."""
    small, large = (_SMALL_CROWDED, _LARGE_CROWDED) if len(traits) > 3 else (_SMALL, _LARGE)
    traits = tuple(sorted(traits, key=lambda trait: not trait[2]))  # large ones are placed first
    sizes = [rng.randint(*(large if big else small)) for *_, big in traits]
    places = place(rng, sizes)
    return tuple(
        Item(kind, colour, left, top, size, tint(rng, colour))
        for (kind, colour, _), (left, top), size in zip(traits, places, sizes, strict=True)
    )


def _captions(rng: random.Random, items: tuple[Item, ...]) -> tuple[Question, ...]:
    """The whole picture from the left and from the top, the big or the small shapes, and one part of it."""
    across, down = sorted(items, key=lambda item: item.x), sorted(items, key=lambda item: item.y)
    size = rng.choice(("big", "small"))
    here = rng.choice(items)
    part = place_of(here.x, here.y) if rng.random() < 0.7 else rng.choice(PLACES)
    there = [a(item.name) for item in across if place_of(item.x, item.y) == part]
    return (
        _caption("describe the picture.", [a(f"{_size(item)} {item.name}") for item in across]),
        _caption("say where everything is.", [f"{i.name} {place_of(i.x, i.y)}" for i in down]),
        _caption(f"name the {size} shapes.", [i.name for i in across if _size(i) == size] or ["nothing"]),
        _caption(f"look at the {part}.", there or ["nothing"]),
    )


def _size(item: Item) -> str:
    return "big" if item.size >= BIG else "small"


def _caption(text: str, parts: Sequence[str]) -> Question:
    return Question(text, (", ".join(parts),), "caption")


_facts = cache(easy_vqa.captions)


@cache
def _asked(split: Split) -> Mapping[int, Mapping[str, Sequence[easy_vqa.EasyQuestion]]]:
    """easy-VQA's image → type → questions, for the images whose questions tell both colour and shape."""
    found: dict[int, dict[str, list[easy_vqa.EasyQuestion]]] = {
        image: {name: [] for name in easy_vqa.TYPES} for image in _facts(split)
    }
    for question in easy_vqa.questions(split):
        if question.image in found:
            found[question.image][question.type].append(question)
    return found


@cache
def _images(split: Split) -> tuple[int, ...]:
    return tuple(_asked(split))


def _real(rng: random.Random, content: Real) -> Scene:
    """One question of each type that the data set asks about the picture, and what its answers tell."""
    by_type = _asked(content.split)[content.image]
    chosen = [rng.choice(rows) for rows in by_type.values() if rows]
    picture = easy_vqa.image(chosen[0]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    name = " ".join(_facts(content.split)[content.image])
    return Scene(
        picture,
        tuple(Question(row.text, (row.answer,), row.type) for row in chosen),
        (
            _caption("describe the picture.", [a(name)]),
            _caption("say where everything is.", [f"{name} {_place(picture)}"]),
        ),
    )


def _place(picture: Image.Image) -> str:
    """The part of the picture that its one shape lies in: what isn't the corners' usual colour."""
    last = SIDE - 1
    corners = [picture.getpixel(at) for at in ((0, 0), (last, 0), (0, last), (last, last))]
    background = Image.new("RGB", picture.size, max(corners, key=corners.count))
    box = ImageChops.difference(picture, background).getbbox()
    assert box is not None  # every picture of the data set shows a shape
    return place_of((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


TASK = DrawnTask(
    name="vqa",
    title="VQA",
    version=1,
    types=TYPES,
    known=("colour", "presence"),
    plan=plan,
    draw=draw,
    metrics={"exact_match": METRICS["vqa"]},
    order=1,
    trained=True,
)
