"""One-word questions about how the marks of a sheet lie to each other, how many there are, and sums.

The tasks' own questions take such steps: which mark is leftmost, which lies alone above another, what 35 and
40 make together. No task asks for a step by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from optmerge.bench.tasks.drawn._drawing.question_makers import APART, BIGGER
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS
from optmerge.bench.tasks.drawn._drawing.sheets import GLYPHS, Mark, called
from optmerge.evaluate.questions import Question

Marks = Sequence[Mark]
_Asked = tuple[str, str]
_Maker = Callable[[random.Random, Marks], _Asked | None]


class Side(NamedTuple):
    """A way across the picture.

    Args:
        axis: 0 for columns, 1 for rows.
        sign: 1 where places grow that way.
        first: what the farthest mark is called.
        beside: how a mark lies that is farther that way than another.
        end: the picture's edge there.
    """

    axis: int
    sign: int
    first: str
    beside: str
    end: str

    def place(self, mark: Mark) -> float:
        """How far a mark lies that way, in pixels."""
        return self.sign * mark.centre[self.axis]


_SIDES = (
    (Side(0, -1, "leftmost", "left of", "left"), Side(1, -1, "highest", "above", "top")),
    (Side(0, 1, "rightmost", "right of", "right"), Side(1, 1, "lowest", "below", "bottom")),
)


def relations(rng: random.Random, marks: Marks, most: int) -> tuple[Question, ...]:
    """Some questions, each with a single answer of one word.

    Args:
        rng: decides.
        marks: of a sheet.
        most: number of questions at most.
    """
    makers = rng.choices(tuple(_MAKERS), tuple(_MAKERS.values()), k=2 * most)
    found = dict(asked for make in makers if (asked := make(rng, marks)))
    return tuple(Question(text, (answer,), "caption") for text, answer in list(found.items())[:most])


def _group(rng: random.Random, marks: Marks) -> tuple[str, list[Mark]]:
    """All marks, or those of a colour or a name; with the word for one of them."""
    one = rng.choice(marks)
    groups = (
        ("mark", list(marks)),
        (f"{one.colour} mark", [mark for mark in marks if mark.colour == one.colour]),
        (one.name, [mark for mark in marks if mark.name == one.name]),
    )
    return rng.choice(groups)


def _told(rng: random.Random, word: str, place: str, mark: Mark) -> _Asked:
    """Question about the mark that a group's word and a place single out: for what the word doesn't tell."""
    if word == mark.name or (word == "mark" and rng.random() < 0.5):
        return f"what color is the {place.format(word)}?", mark.colour
    return f"what is the {place.format(word)}?", mark.name


def _side(rng: random.Random) -> Side:
    return rng.choice(rng.choice(_SIDES))


def _end(rng: random.Random, marks: Marks) -> _Asked | None:
    """The first or, in small groups, the second of a group from a side."""
    word, members = _group(rng, marks)
    side = _side(rng)
    order = sorted(members, key=side.place, reverse=True)
    apart = [side.place(one) - side.place(other) >= APART for one, other in pairwise(order)]
    if 1 < len(order) < 5 and all(apart[:2]) and rng.random() < 0.3:
        return _told(rng, word, "second {} from the " + side.end, order[1])
    return _told(rng, word, side.first + " {}", order[0]) if apart[:1] == [True] else None


def _beside(rng: random.Random, marks: Marks) -> _Asked | None:
    """The one of a group that alone lies on a side of another mark."""
    anchor = rng.choice(marks)
    word, members = _group(rng, marks)
    members = [mark for mark in members if mark is not anchor]
    side = _side(rng)
    steps = [side.place(mark) - side.place(anchor) for mark in members]
    there = [mark for mark, step in zip(members, steps, strict=True) if step > 0]
    if len(there) != 1 or min(map(abs, steps)) < APART or not _only(anchor, marks):
        return None
    return _told(rng, word, f"{{}} {side.beside} {called(anchor)}", there[0])


def _whether(rng: random.Random, marks: Marks) -> _Asked | None:
    """Whether a mark lies on a side of another."""
    if len(marks) < 2:
        return None
    one, other = rng.sample(marks, 2)
    side = _side(rng)
    step = side.place(one) - side.place(other)
    if abs(step) < APART or not (_only(one, marks) and _only(other, marks)):
        return None
    return f"is {called(one)} {side.beside} {called(other)}?", "yes" if step > 0 else "no"


def _only(mark: Mark, marks: Marks) -> bool:
    return sum(called(mark) == called(other) for other in marks) == 1


def _count(rng: random.Random, marks: Marks) -> _Asked | None:
    """How many there are of a colour or a name, mostly of one that is there."""
    names = GLYPHS if marks[0].name in GLYPHS else KINDS
    which = rng.choice(("name", "colour"))
    there = [getattr(mark, which) for mark in marks]
    one = rng.choice(there if rng.random() < 0.7 else tuple(COLOURS if which == "colour" else names))
    return f"how many marks are {one}?", str(there.count(one))


def _size(rng: random.Random, marks: Marks) -> _Asked | None:
    """The biggest or smallest of a group."""
    word, members = _group(rng, marks)
    big = rng.random() < 0.5
    widths = sorted((mark.width for mark in members), reverse=big)
    if len(members) < 2 or max(widths[:2]) < BIGGER * min(widths[:2]):
        return None
    (end,) = (mark for mark in members if mark.width == widths[0])
    return _told(rng, word, ("biggest" if big else "smallest") + " {}", end)


def _sum(rng: random.Random, marks: Marks) -> _Asked:
    """A sum, difference, product or half, of the numbers that tasks are about; no picture is needed."""
    step = rng.choice((1, 5, 10))
    few, many = sorted(step * rng.randint(1, 10 if step < 5 else 100 // step) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        return f"{few} plus {many}?", str(few + many)
    if kind == 1:
        return f"{many} minus {few}?", str(many - few)
    if kind == 2:
        angles = [10 * rng.randint(1, 8) for _ in range(rng.randint(1, 2))]
        return "180 " + " ".join(f"minus {each}" for each in angles) + "?", str(180 - sum(angles))
    if kind == 3:
        sides = [rng.randint(1, 10) for _ in range(rng.randint(3, 4))]
        return " plus ".join(map(str, sides)) + "?", str(sum(sides))
    one, other = rng.randint(1, 9), rng.randint(2, 9)
    return (f"{one} times {other}?", str(one * other)) if kind == 4 else (f"half of {2 * one}?", str(one))


_MAKERS: dict[_Maker, float] = {_end: 6, _beside: 6, _whether: 2, _count: 1.5, _size: 4, _sum: 1.5}
"""Kind of question → how often it is tried."""
