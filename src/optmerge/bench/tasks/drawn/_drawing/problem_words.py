"""What can be asked and said about a geometric figure, in words.

A question about a number may list four options; the answer is then a letter. Questions with options have
types of their own: "reading choice" where the number is read off, "choice" where it follows from what is read
off.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optmerge.bench.tasks.drawn._drawing.problems import Problem, sort_of_angles, sort_of_sides
from optmerge.bench.tasks.drawn._drawing.strokes import Figure
from optmerge.evaluate.questions import Question

KNOWN = ("length", "angle", "sides", "reading choice")
TYPES = (
    *KNOWN,
    "missing angle",
    "line angle",
    "isosceles",
    "parallel",
    "circle",
    "perimeter",
    "area",
    "difference",
    "kind",
    "choice",
)
_CHOSEN = 0.3  # share of the questions about numbers that list options
_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "length": ("how long is {}?", "what is the length of {}?", "read the length of {}."),
    "angle": ("how large is {}?", "what size is {}?", "read {}."),
    "sides": ("how many sides does the figure have?", "how many corners does the figure have?"),
    "x": ("how large is angle {}?", "what is angle {}?", "find angle {}."),
    "circle": ("how long is {}?", "what is the length of {}?", "find {}."),
    "perimeter": (
        "what is the perimeter of the {}?",
        "how long is the way around the {}?",
        "find the perimeter of the {}.",
    ),
    "area": ("what is the area of the {}?", "how large is the area of the {}?", "find the area of the {}."),
    "difference": ("how much longer is {} than {}?", "by how much is {} longer than {}?"),
    "kind": ("what kind of triangle is this by its {}?", "name the triangle by its {}."),
}


@dataclass(frozen=True)
class Ask:
    """Something to ask.

    Args:
        type: of the question, options aside.
        wording: which of the wordings.
        gaps: what they are filled with.
        answer: a number, or a word.
        step: by which wrong options differ from the answer.
    """

    type: str
    wording: str
    gaps: tuple[str, ...]
    answer: int | str
    step: int = 1


def questions(rng: random.Random, problem: Problem, figure: Figure) -> tuple[Question, ...]:
    """Everything to ask about a figure, in random order; some of it with options."""
    asks = _ASKS[problem.shape](problem, figure)
    rng.shuffle(asks)
    printed = [int(label.text) for label in figure.labels if label.text.isdigit()]
    return tuple(_question(rng, ask, printed) for ask in asks)


def captions(rng: random.Random, problem: Problem, figure: Figure) -> tuple[Question, ...]:
    """A description, what is printed where, and what is printed in one part of the picture."""
    part = rng.choice(figure.labels).place
    there = [label.text for label in figure.labels if label.place == part]
    return (
        _caption("describe the picture.", _DESCRIPTIONS[problem.shape](problem)),
        _caption(
            "say where everything is.", ", ".join(f"{each.text} {each.place}" for each in figure.labels)
        ),
        _caption(f"look at the {part}.", ", ".join(there)),
    )


def _caption(text: str, answer: str) -> Question:
    return Question(text, (answer,), "caption")


def _question(rng: random.Random, ask: Ask, printed: Sequence[int]) -> Question:
    text = rng.choice(_WORDINGS[ask.wording]).format(*ask.gaps)
    if isinstance(ask.answer, str) or rng.random() >= _CHOSEN:
        return Question(text, (str(ask.answer),), ask.type)
    options = _wrong_options(rng, ask.answer, ask.step, printed)
    right = rng.randrange(4)
    options.insert(right, ask.answer)
    listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
    return Question(f"{text} {listed}", ("ABCD"[right],), "reading choice" if ask.type in KNOWN else "choice")


def _wrong_options(rng: random.Random, answer: int, step: int, printed: Sequence[int]) -> list[int]:
    """Three numbers near the answer; mostly one is printed, so that being printed gives nothing away."""
    near = [answer + step * by for by in range(-5, 6) if by and answer + step * by > 0]
    tempting = [number for number in printed if number != answer]
    first = rng.choice(tempting) if tempting and rng.random() < 0.7 else rng.choice(near)
    options = [first, *rng.sample([number for number in near if number != first], 2)]
    rng.shuffle(options)
    return options


def _angles(type: str, problem: Problem, figure: Figure, names: Sequence[str]) -> list[Ask]:
    """Readings of the given angles, and the unknown ones; `names` of the given ones if there are several."""
    given = [i for i, label in enumerate(figure.labels) if label.text.isdigit()]
    asks = []
    for i in given:
        name = f"the angle {names[i]}" if len(given) > 1 else "the given angle"
        asks.append(Ask("angle", "angle", (name,), int(figure.labels[i].text), 10))
    marked = [text for text in problem.texts if text]
    return asks + [
        Ask(type, "x", (text,), _value(problem, problem.texts.index(text)), 10)
        for text in marked
        if not text.isdigit()
    ]


def _value(problem: Problem, place: int) -> int:
    """The size of the angle at a place among a problem's texts."""
    if problem.shape in ("crossing", "parallels"):
        return problem.numbers[0] if place % 2 == 0 else 180 - problem.numbers[0]
    return problem.numbers[place]


def _triangle(problem: Problem, figure: Figure) -> list[Ask]:
    return [
        *_angles("missing angle", problem, figure, _corners(figure)),
        Ask("kind", "kind", ("angles",), sort_of_angles(problem.numbers)),
    ]


def _isosceles(problem: Problem, figure: Figure) -> list[Ask]:
    return _angles("isosceles", problem, figure, ())


def _rays(problem: Problem, figure: Figure) -> list[Ask]:
    columns = sorted(label.at[0] for label in figure.labels)
    places = ("at the left", "in the middle", "at the right")
    return _angles(
        "line angle", problem, figure, [places[columns.index(label.at[0])] for label in figure.labels]
    )


def _crossing(problem: Problem, figure: Figure) -> list[Ask]:
    return _angles("line angle", problem, figure, ())


def _parallels(problem: Problem, figure: Figure) -> list[Ask]:
    return _angles("parallel", problem, figure, ())


def _corners(figure: Figure) -> list[str]:
    """Where a triangle's three labels are: both on its base, then its apex."""
    (x1, y1), (x2, y2), (_, y3) = (label.at for label in figure.labels)
    base, apex = ("bottom", "top") if y3 < (y1 + y2) / 2 else ("top", "bottom")
    first, second = ("left", "right") if x1 < x2 else ("right", "left")
    return [f"at the {base} {first}", f"at the {base} {second}", f"at the {apex}"]


def _side_names(problem: Problem, figure: Figure) -> list[str]:
    """Names of the labelled sides: the letters at their ends if there are any, else their places."""
    if problem.letters:
        letters = problem.letters
        ends = {"triangle of sides": ((0, 2), (1, 2), (0, 1)), "right triangle": ((0, 1), (0, 2))}
        pairs = ends.get(problem.shape, ((0, 1), (0, 3)))
        return [f"side {letters[i]}{letters[j]}" for i, j in pairs]
    columns, rows = zip(*figure.area, strict=True)
    centre = (min(columns) + max(columns)) / 2, (min(rows) + max(rows)) / 2
    if problem.shape == "triangle of sides":
        left, right, base = (label.at for label in figure.labels[:3])
        first, second = ("left", "right") if left[0] < right[0] else ("right", "left")
        third = "bottom" if base[1] > centre[1] else "top"
        return [f"the {first} side", f"the {second} side", f"the {third} side"]
    level, upright = figure.labels[0].at, figure.labels[-1].at
    names = ["the bottom side" if level[1] > centre[1] else "the top side"]
    return [*names, "the left side" if upright[0] < centre[0] else "the right side"]


def _lengths(problem: Problem, figure: Figure) -> list[Ask]:
    """Readings of the labelled sides."""
    named = zip(_side_names(problem, figure), problem.numbers, strict=False)
    return [Ask("length", "length", (name,), length) for name, length in named]


def _difference(readings: Sequence[Ask]) -> list[Ask]:
    """By how much one of two sides is longer; nothing for sides of equal length."""
    by_length = {int(reading.answer): reading.gaps[0] for reading in readings}
    if len(by_length) < 2:
        return []
    short, long = sorted(by_length)
    return [Ask("difference", "difference", (by_length[long], by_length[short]), long - short)]


def _sides(problem: Problem, figure: Figure) -> list[Ask]:
    return [
        *_lengths(problem, figure),
        Ask("perimeter", "perimeter", ("triangle",), sum(problem.numbers)),
        Ask("kind", "kind", ("sides",), sort_of_sides(problem.numbers)),
    ]


def _right(problem: Problem, figure: Figure) -> list[Ask]:
    wide, tall = problem.numbers
    return [*_lengths(problem, figure), Ask("area", "area", ("triangle",), wide * tall // 2)]


def _rectangle(problem: Problem, figure: Figure) -> list[Ask]:
    readings, wide, tall = _lengths(problem, figure), problem.numbers[0], problem.numbers[-1]
    return [
        *readings,
        *_difference(readings),
        Ask("perimeter", "perimeter", (problem.shape,), 2 * (wide + tall), 2),
        Ask("area", "area", (problem.shape,), wide * tall),
    ]


def _circle(problem: Problem, figure: Figure) -> list[Ask]:
    length, across = problem.numbers
    given, other = ("the diameter", "the radius") if across else ("the radius", "the diameter")
    return [
        Ask("length", "circle", (given,), length),
        Ask("circle", "circle", (other,), length // 2 if across else 2 * length),
    ]


def _polygon(problem: Problem, figure: Figure) -> list[Ask]:
    corners, length = problem.numbers
    return [
        Ask("sides", "sides", (), corners),
        Ask("length", "length", ("one side",), length),
        Ask("perimeter", "perimeter", ("figure with equal sides",), corners * length),
    ]


_ASKS: Mapping[str, Callable[[Problem, Figure], list[Ask]]] = {
    "triangle of angles": _triangle,
    "isosceles": _isosceles,
    "rays": _rays,
    "crossing": _crossing,
    "parallels": _parallels,
    "triangle of sides": _sides,
    "right triangle": _right,
    "rectangle": _rectangle,
    "square": _rectangle,
    "circle": _circle,
    "polygon": _polygon,
}


def _list(texts: Sequence[str]) -> str:
    """Texts as prose: "40, 60 and x"."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _marked(problem: Problem) -> list[str]:
    return [text for text in problem.texts if text]


def _described_lines(problem: Problem, what: str) -> str:
    """Lines that cross, and whether their labelled angles look wide or narrow."""
    sizes = [
        f"{text} is {'wide' if _value(problem, place) > 90 else 'narrow'}"
        for place, text in enumerate(problem.texts)
        if text
    ]
    return f"{what} with the angles {_list(_marked(problem))}. {_list(sizes)}"


def _described_sides(problem: Problem, what: str, lengths: Sequence[int]) -> str:
    sides = _list([str(length) for length in lengths])
    corners = f" and the corners {_list(list(problem.letters))}" if problem.letters else ""
    return f"{what} with the side{'s' if len(lengths) > 1 else ''} {sides}{corners}"


_DESCRIPTIONS: Mapping[str, Callable[[Problem], str]] = {
    "triangle of angles": lambda p: f"a triangle with the angles {_list(_marked(p))}",
    "isosceles": lambda p: f"a triangle with two marked sides and the angles {_list(_marked(p))}",
    "rays": lambda p: f"a straight line with the angles {_list(_marked(p))}",
    "crossing": lambda p: _described_lines(p, "two crossing lines"),
    "parallels": lambda p: _described_lines(p, "a line across two parallel lines"),
    "triangle of sides": lambda p: _described_sides(p, "a triangle", p.numbers),
    "right triangle": lambda p: _described_sides(p, "a triangle with a square corner", p.numbers),
    "rectangle": lambda p: _described_sides(p, "a rectangle", p.numbers),
    "square": lambda p: _described_sides(p, "a square", p.numbers),
    "circle": lambda p: f"a circle with the {'diameter' if p.numbers[1] else 'radius'} {p.numbers[0]}",
    "polygon": lambda p: _described_sides(p, f"a figure with {p.numbers[0]} corners", p.numbers[1:]),
}
