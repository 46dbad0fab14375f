"""Grounding: the box of the shape that an expression refers to, in crowded pictures.

A group of look-alikes is in every picture, so that most expressions need more than one word to be resolved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from optmerge.bench.tasks import DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES
from optmerge.bench.tasks.drawn._drawing.place_words import a, box_words, place_of, unique
from optmerge.bench.tasks.drawn._drawing.placement import place
from optmerge.bench.tasks.drawn._drawing.question_makers import APART, BIGGER, alone_beside
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, Item, Style, render, style, tint
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import iou, parse_box
from optmerge.evaluate.scoring.metrics import METRICS

ITEMS = (5, 9)
"""Fewest and most shapes in a scene."""
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
"""What is printed on shapes; no I, O and Q, which look like something else here."""
_SMALL, _LARGE = (20, 23), (30, 36)
"""Ranges of widths in pixels; `BIGGER` times apart."""
_OVERLAP = 0.15
"""Share of a shape that another may cover."""
_WORDINGS = ("where is the {}?", "find the {}.", "locate the {}.", "give the box of the {}.")
_Trait = tuple[bool, str, str, str]
"""Whether it is large, kind, colour, letter."""
Candidate = tuple[str, Item]
"""An expression and the one shape it refers to."""


@dataclass(frozen=True)
class Content:
    """Shapes and how they look; the seed decides what is asked."""

    items: tuple[Item, ...]
    style: Style
    seed: int


def plan(rng: random.Random, split: Split) -> Content:
    """A crowded scene; splits are held apart by which shapes come together."""
    traits = sorted(held_apart(rng, split, _traits, sorted), reverse=True)  # the large ones are placed first
    sizes = [rng.randint(*(_LARGE if large else _SMALL)) for large, *_ in traits]
    places = place(rng, sizes, overlap=_OVERLAP)
    items = tuple(
        Item(kind, colour, left, top, size, tint(rng, colour), letter)
        for (_, kind, colour, letter), (left, top), size in zip(traits, places, sizes, strict=True)
    )
    return Content(items, style(rng, FAMILIES), rng.getrandbits(32))


def _traits(rng: random.Random) -> tuple[_Trait, ...]:
    """What each shape is: three or four look-alikes, of which one is large, and others."""
    number = rng.randint(*ITEMS)
    kinds, colours = rng.choices(KINDS, k=number), rng.choices(tuple(COLOURS), k=number)
    alike = 3 if number < 7 else rng.randint(3, 4)
    kinds[:alike] = [kinds[0]] * alike
    if rng.random() < 0.5:
        colours[:alike] = [colours[0]] * alike
    large = [index in (0, alike) or (index == alike + 1 and number < 8) for index in range(number)]
    printed = [
        letter if kind in (_PRINTABLE if big else _PRINTABLE_SMALL) else ""
        for big, kind, letter in zip(large, kinds, rng.sample(LETTERS, number), strict=True)
    ]
    return tuple(zip(large, kinds, colours, printed, strict=True))


_PRINTABLE, _PRINTABLE_SMALL = ("circle", "square", "triangle", "star", "cross"), ("square",)
"""Kinds that a letter fits on without hiding them."""


def draw(content: Content) -> Scene:
    """Picture, questions and captions of a scene."""
    rng = random.Random(content.seed)
    picture = render(content.items, content.style)
    return Scene(picture, _questions(rng, content.items), _captions(rng, content.items))


def _questions(rng: random.Random, items: Sequence[Item]) -> tuple[Question, ...]:
    """One question of each type, two of attributes; about different shapes where possible."""
    asked: dict[str, Question] = {}
    used: set[Item] = set()
    for name in ("attributes", *_CANDIDATES):
        candidates = [each for each in _CANDIDATES[name](items) if each[0] not in asked]
        if not candidates:
            continue
        words, item = rng.choice([each for each in candidates if each[1] not in used] or candidates)
        used.add(item)
        asked[words] = Question(rng.choice(_WORDINGS).format(words), (box_words(item.box),), name)
    return tuple(asked.values())


def _groups(items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """Shapes that share a kind or a colour, and all of them, with the word for one of them."""
    groups = [(kind, [item for item in items if item.kind == kind]) for kind in KINDS]
    groups += [(f"{colour} shape", [item for item in items if item.colour == colour]) for colour in COLOURS]
    return [("shape", list(items)), *((word, members) for word, members in groups if len(members) > 1)]


def by_attributes(items: Sequence[Item]) -> list[Candidate]:
    """By colour and kind, and by either alone where it suffices."""
    both = [(item.name, item) for item in unique(items, lambda item: item.name)]
    colour = [(f"{item.colour} shape", item) for item in unique(items, lambda item: item.colour)]
    kind = [(item.kind, item) for item in unique(items, lambda item: item.kind)]
    return both + colour + kind


def by_letter(items: Sequence[Item]) -> list[Candidate]:
    """By what is printed on it."""
    marked = [item for item in items if item.letter]
    return [(f"shape {how} {item.letter}", item) for item in marked for how in ("marked", "with the letter")]


def by_size(items: Sequence[Item]) -> list[Candidate]:
    """The biggest or smallest of a group."""
    found = []
    for word, members in _groups(items):
        order = sorted(members, key=lambda item: item.size)
        if order[1].size >= BIGGER * order[0].size:
            found.append((f"smallest {word}", order[0]))
        if order[-1].size >= BIGGER * order[-2].size:
            found.append((f"biggest {word}", order[-1]))
    return found


def by_position(items: Sequence[Item]) -> list[Candidate]:
    """The outermost of a group of three or more on a side, or the next one in a small group."""
    found = []
    for word, members in (group for group in _groups(items) if len(group[1]) > 2):
        for (first, side), key in _ENDS.items():
            order = sorted(members, key=key)
            steps = [key(after) - key(before) for before, after in pairwise(order)]
            if steps[0] >= APART:
                found.append((f"{first} {word}", order[0]))
            if len(order) < 5 and min(steps[:2]) >= APART:
                found.append((f"second {word} from the {side}", order[1]))
    return found


_ENDS: dict[tuple[str, str], Callable[[Item], float]] = {
    ("leftmost", "left"): lambda item: item.x,
    ("rightmost", "right"): lambda item: -item.x,
    ("highest", "top"): lambda item: item.y,
    ("lowest", "bottom"): lambda item: -item.y,
}


def by_relation(items: Sequence[Item]) -> list[Candidate]:
    """The one of a group that lies on a side of another shape."""
    anchors = [(f"the {item.name}", item) for item in unique(items, lambda item: item.name)]
    anchors += [(f"the letter {item.letter}", item) for item in items if item.letter]
    return [
        (f"{word} {side} {phrase}", item)
        for word, members in _groups(items)[1:]
        for phrase, anchor in anchors
        if len(others := [item for item in members if item is not anchor]) > 1
        for side, item in alone_beside(anchor, others)
    ]


_CANDIDATES: dict[str, Callable[[Sequence[Item]], list[Candidate]]] = {
    "attributes": by_attributes,
    "letter": by_letter,
    "size": by_size,
    "position": by_position,
    "relation": by_relation,
}


def _captions(rng: random.Random, items: Sequence[Item]) -> tuple[Question, ...]:
    """An order of all shapes, a group's boxes, what is in a box and in a part of the picture, the letters."""
    across = sorted(items, key=lambda item: item.x)
    word, members = rng.choice(_groups(across)[1:])
    one, here = rng.sample(across, 2)
    part = place_of(here.x, here.y)
    there = [item for item in across if place_of(item.x, item.y) == part]
    letters = [item.letter for item in across if item.letter]
    return (
        _caption("name the shapes from left to right.", [item.name for item in across]),
        _caption(f"list up to 3 boxes of {a(word)}.", [f"{i.name} {box_words(i.box)}" for i in members[:3]]),
        _caption(f"look at {box_words(one.box)}.", [_described(one)]),
        _caption(f"look at the {part}.", [_described(item) for item in there[:4]]),
        _caption("read the letters from left to right.", letters or ["nothing"]),
    )


def _described(item: Item) -> str:
    size = "big" if item.size >= _LARGE[0] else "small"
    return a(f"{size} {item.name}") + (f" marked {item.letter}" if item.letter else "")


def _caption(text: str, parts: Sequence[str]) -> Question:
    return Question(text, (", ".join(parts),), "caption")


def mean_iou(said: str, question: Question) -> float:
    """The IoU with the right box; 0 where no box was said."""
    box, right = parse_box(said, "hundredths"), parse_box(question.answers[0], "hundredths")
    return iou(box, right) if box and right else 0.0


TASK = DrawnTask(
    name="grounding",
    title="Grounding",
    version=1,
    types=tuple(_CANDIDATES),
    known=("attributes", "letter"),
    plan=plan,
    draw=draw,
    metrics={"iou_at_0.5": METRICS["box"], "mean_iou": mean_iou},
    order=5,
    trained=True,
)
