"""What can be asked about a few drawn shapes, in words, with the right answer.

Every maker takes the scene's generator and shapes, and returns None where the shapes give nothing to ask.
Answers are drawn before the question wherever that balances them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from optmerge.bench.tasks.drawn._drawing.place_words import PLURALS, a, unique
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, Item
from optmerge.evaluate.questions import Question

BIGGER = 1.3
"""One shape is called bigger than another from this ratio of their widths."""
APART = 10
"""One shape is called left of (above) another where their centres are this many pixels apart that way."""
Maker = Callable[[random.Random, Sequence[Item]], Question | None]
_AXES: Sequence[tuple[Callable[[Item], float], tuple[str, str]]] = (
    (lambda item: item.x, ("left of", "right of")),
    (lambda item: item.y, ("above", "below")),
)
_HOW_OFTEN: Mapping[int, float] = {0: 1, 1: 1, 2: 1.5, 3: 4}
"""Preference for a number of shapes as an answer: rare numbers are preferred, which evens the answers out."""


def colour(rng: random.Random, items: Sequence[Item]) -> Question | None:
    """The colour of the only shape of its kind."""
    found = unique(items, lambda item: item.kind)
    if not found:
        return None
    item = rng.choice(found)
    wordings = (
        "what color is the {}?",
        "what is the color of the {}?",
        "which color does the {} have?",
    )
    return Question(rng.choice(wordings).format(item.kind), (item.colour,), "colour")


def shape(rng: random.Random, items: Sequence[Item]) -> Question | None:
    """The kind of the only shape of its colour."""
    found = unique(items, lambda item: item.colour)
    if not found:
        return None
    item = rng.choice(found)
    wordings = ("what is the {} shape?", "what shape is {}?", "which shape is the {} one?")
    return Question(rng.choice(wordings).format(item.colour), (item.kind,), "shape")


def presence(rng: random.Random, items: Sequence[Item]) -> Question:
    """Whether a kind, a colour, or a pair of both is there; most absent pairs are split over two shapes."""
    kinds, colours = {item.kind for item in items}, {item.colour for item in items}
    names = {item.name for item in items}
    form, yes = rng.choice(("kind", "colour", "both")), rng.random() < 0.5
    if form == "kind":
        what = rng.choice([kind for kind in KINDS if (kind in kinds) == yes])
    elif form == "colour":
        what = rng.choice([colour for colour in COLOURS if (colour in colours) == yes]) + " shape"
    else:
        near = [f"{c} {k}" for c in COLOURS for k in KINDS if c in colours and k in kinds]
        pairs = [name for name in near if (name in names) == yes]
        what = rng.choice(pairs or [f"{c} {k}" for c in COLOURS for k in KINDS if f"{c} {k}" not in names])
    wordings = ("is there {}?", "does the picture show {}?", "is {} present?", "is there {} in the picture?")
    return Question(rng.choice(wordings).format(a(what)), ("yes" if yes else "no",), "presence")


def count(rng: random.Random, items: Sequence[Item]) -> Question:
    """The number of shapes in all, or of a kind or a colour."""
    if rng.random() < 0.25:
        wording = rng.choice(("how many shapes are there?", "how many shapes does the picture show?"))
        return Question(wording, (str(len(items)),), "count")
    numbers = Counter(PLURALS[item.kind] for item in items)
    numbers.update(f"{item.colour} shapes" for item in items)
    numbers.update(dict.fromkeys((*PLURALS.values(), *(f"{c} shapes" for c in COLOURS)), 0))
    possible = sorted(set(numbers.values()) & _HOW_OFTEN.keys())
    number = rng.choices(possible, [_HOW_OFTEN[value] for value in possible])[0]
    what = rng.choice([name for name, value in numbers.items() if value == number])
    wordings = ("how many {} are there?", "how many {} does the picture show?", "count the {}.")
    return Question(rng.choice(wordings).format(what), (str(number),), "count")


def which(rng: random.Random, items: Sequence[Item]) -> Question | None:
    """The shape that alone lies on a side of another."""
    found = [
        (anchor, side, item)
        for anchor in unique(items, lambda item: item.name)
        for side, item in alone_beside(anchor, [item for item in items if item is not anchor])
    ]
    if not found:
        return None
    anchor, side, item = rng.choice(found)
    wordings = ("what is {} the {}?", "which shape is {} the {}?", "what lies {} the {}?")
    return Question(rng.choice(wordings).format(side, anchor.name), (item.name,), "relation")


def alone_beside(anchor: Item, others: Sequence[Item]) -> list[tuple[str, Item]]:
    """The sides of a shape on which exactly one of the others lies, with that one.

    An axis is left out if any shape lies less than `APART` pixels from the anchor along it.
    """
    found = []
    for key, (before, after) in _AXES:
        at = key(anchor)
        steps = [key(item) - at for item in others]
        if all(abs(step) >= APART for step in steps):
            ahead = sum(step < 0 for step in steps)
            if ahead == 1:
                found.append((before, others[steps.index(min(steps))]))
            if len(steps) - ahead == 1:
                found.append((after, others[steps.index(max(steps))]))
    return found


def whether(rng: random.Random, items: Sequence[Item]) -> Question | None:
    """Whether a shape lies on a side of another; where it doesn't, it lies on the other side."""
    named = unique(items, lambda item: item.name)
    found = [
        (one, sides, other)
        for one in named
        for other in named
        for key, sides in _AXES
        if key(one) - key(other) <= -APART
    ]
    if not found:
        return None
    one, (before, after), other = rng.choice(found)
    first, second, side = rng.choice(((one, other, before), (other, one, after)))
    yes = rng.random() < 0.5
    if not yes:
        first, second = second, first
    text = rng.choice(("is the {} {} the {}?", "does the {} lie {} the {}?"))
    return Question(text.format(first.name, side, second.name), ("yes" if yes else "no",), "relation")


def comparison(rng: random.Random, items: Sequence[Item]) -> Question | None:
    """Which of two shapes is bigger, which of all is the biggest, or of which there are more."""
    makers = [_bigger, _biggest, _more]
    rng.shuffle(makers)
    return next((question for make in makers if (question := make(rng, items))), None)


def _bigger(rng: random.Random, items: Sequence[Item]) -> Question | None:
    named = unique(items, lambda item: item.name)
    pairs = [(one, other) for one in named for other in named if one.size >= BIGGER * other.size]
    if not pairs:
        return None
    bigger, smaller = rng.choice(pairs)
    first, second = rng.sample((bigger, smaller), 2)
    if rng.random() < 0.5:
        word, right = rng.choice((("bigger", bigger), ("smaller", smaller)))
        text = rng.choice(("which is {}, the {} or the {}?", "what is {}, the {} or the {}?"))
        return Question(text.format(word, first.name, second.name), (right.name,), "comparison")
    word, right = rng.choice((("bigger", bigger), ("smaller", smaller)))
    text = f"is the {first.name} {word} than the {second.name}?"
    return Question(text, ("yes" if first is right else "no",), "comparison")


def _biggest(rng: random.Random, items: Sequence[Item]) -> Question | None:
    size = sorted(items, key=lambda item: item.size)
    ends = [
        (word, end)
        for word, end, other in (("smallest", size[0], size[1]), ("biggest", size[-1], size[-2]))
        if max(end.size, other.size) >= BIGGER * min(end.size, other.size)
    ]
    if not ends:
        return None
    word, item = rng.choice(ends)
    if rng.random() < 0.5:
        return Question(f"what color is the {word} shape?", (item.colour,), "comparison")
    return Question(f"what is the {word} shape?", (item.kind,), "comparison")


def _more(rng: random.Random, items: Sequence[Item]) -> Question | None:
    numbers = Counter(PLURALS[item.kind] for item in items)
    if rng.random() < 0.5:
        numbers = Counter(f"{item.colour} shapes" for item in items)
    yes = rng.random() < 0.5
    pairs = [(m, f) for m in numbers for f in numbers if numbers[m] > numbers[f]]
    if not pairs:
        return None
    more, fewer = rng.choice(pairs)
    first, second = (more, fewer) if yes else (fewer, more)
    return Question(f"are there more {first} than {second}?", ("yes" if yes else "no",), "comparison")


TYPES = ("colour", "shape", "presence", "count", "relation", "comparison")
_MAKERS: tuple[Maker, ...] = (colour, shape, presence, count, which, whether, comparison)


def questions(rng: random.Random, items: Sequence[Item]) -> tuple[Question, ...]:
    """Every question that the shapes allow, each once, and two questions of relation."""
    return tuple(question for make in _MAKERS if (question := make(rng, items)))
