"""OCR: words, numbers, dates and codes, alone, in lines, and in small forms and receipts.

No word, number, date or code of the test is ever printed in training; the short numbers of forms and
receipts are, but never together in the same form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optmerge.bench.tasks import DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn._drawing import texts
from optmerge.bench.tasks.drawn._drawing.pages import INKS, LIGHT_INKS, Line, Look, look, render
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.metrics import METRICS

FIELDS = ("ROOM", "SEAT", "GATE", "ROW", "ITEM", "SIZE", "PAGE", "BUS", "DESK", "TAX")
"""Fields of a form that hold a number."""
NAMES = ("NAME", "CITY")
"""Fields of a form that hold a word."""
GOODS = ("TEA", "MILK", "RICE", "SALT", "SOAP", "CORN", "JAM", "OIL")
"""What is on receipts, above the `TOTAL`."""
TOTAL = "TOTAL"
ORDINALS = ("first", "second", "third", "fourth")
_SHARES: Mapping[str, float] = {
    "word": 19,
    "number": 7,
    "date": 5,
    "code": 8,
    "pair": 33,
    "list": 13,
    "form": 8,
    "receipt": 7,
}
_NOUNS: Mapping[str, str] = {"word": "letter", "number": "digit", "code": "character"}


@dataclass(frozen=True)
class Page:
    """What is printed, and how.

    Args:
        kind: "word", "number", "date" or "code" alone; a "pair" of a word and a number; a "list" of one of
            these among several of the other; a "form" or "receipt", whose lines have a name and a value.
        lines: top to bottom.
        look: of the picture.
        seed: of what is asked.
    """

    kind: str
    lines: tuple[Line, ...]
    look: Look
    seed: int


def plan(rng: random.Random, split: Split) -> Page:
    """A page of some kind with texts of the split."""
    kind = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
    cells = _printed(rng, split, kind)
    dark = kind != "list" and rng.random() < 0.25  # a list needs more colours than stand out on dark paper
    palette = LIGHT_INKS if dark else INKS
    inks = [rng.choice(palette)] * len(cells)
    if kind in ("pair", "list"):
        inks = rng.sample(palette, len(cells))
    lines = tuple(Line(cell, ink) for cell, ink in zip(cells, inks, strict=True))
    return Page(kind, lines, look(rng, lines, dark=dark), rng.getrandbits(32))


def draw(content: Page) -> Scene:
    """Picture, questions and captions of a page."""
    rng = random.Random(content.seed)
    asked = _QUESTIONS.get(content.kind, _about_one)(rng, content)
    return Scene(render(content.lines, content.look), tuple(asked), tuple(_captions(rng, content)))


def _printed(rng: random.Random, split: Split, kind: str) -> Sequence[tuple[str, ...]]:
    """The lines' texts, those of forms and receipts in two parts."""
    if kind == "form":
        return held_apart(rng, split, lambda rng: _form(rng, split), lambda lines: lines)
    if kind == "receipt":
        return held_apart(rng, split, _receipt, lambda lines: lines)
    if kind == "pair":
        return [(text,) for text in rng.sample((texts.word(rng, split), texts.number(rng, split)), 2)]
    if kind == "list":
        makers = rng.sample((texts.word, texts.number), 2)
        lines = [(makers[row > 0](rng, split, longest=5),) for row in range(rng.randint(3, 4))]
        rng.shuffle(lines)
        return lines
    if kind == "date":
        return [(rng.choice("//.-").join(texts.date(rng, split)),)]
    return [({"word": texts.word, "number": texts.number, "code": texts.code}[kind](rng, split),)]


def _form(rng: random.Random, split: Split) -> tuple[tuple[str, str], ...]:
    """Two to four different fields in any order, at most one of them with a word."""
    number = rng.randint(2, 4)
    fields = rng.sample((*rng.sample(FIELDS, 4), rng.choice(NAMES)), number)
    return tuple(
        (name, texts.word(rng, split, longest=3) if name in NAMES else str(rng.randint(10, 999)))
        for name in fields
    )


def _receipt(rng: random.Random) -> tuple[tuple[str, str], ...]:
    """Two or three goods with their prices, and what they come to."""
    goods = [(name, rng.randint(11, 99)) for name in rng.sample(GOODS, rng.randint(2, 3))]
    return tuple((name, str(price)) for name, price in (*goods, (TOTAL, sum(price for _, price in goods))))


def _about_one(rng: random.Random, page: Page) -> Iterator[Question]:
    """The text as a whole, and often a part of it."""
    text = page.lines[0].cells[0]
    yield _reading(rng, page.kind, text)
    if page.kind == "date":
        row = rng.randrange(3)
        wording = rng.choice(("what is the {}?", "which {} is it?", "read the {}."))
        part = text.replace(".", "/").replace("-", "/").split("/")[row]
        yield Question(wording.format(("day", "month", "year")[row]), (part,), "date")
        return
    if rng.random() < 0.4:
        return
    place = rng.choice((*ORDINALS[:3], "last"))
    wording = rng.choice(("what is the {} {}?", "which is the {} {}?", "read the {} {}."))
    answer = text[-1] if place == "last" else text[ORDINALS.index(place)]
    yield Question(wording.format(place, _NOUNS[page.kind]), (answer,), "letter")


def _about_pair(rng: random.Random, page: Page) -> Iterator[Question]:
    """Both texts by what they are; often one by its colour or its place too."""
    for line in page.lines:
        yield _reading(rng, _kind(line), line.cells[0])
    if rng.random() < 0.6:
        yield _by_colour(rng, rng.choice(page.lines))
    if rng.random() < 0.4:
        yield _by_place(rng, page.lines, rng.randrange(2))


def _about_list(rng: random.Random, page: Page) -> Iterator[Question]:
    """The text unlike the others by what it is; one by its colour, one or two by their places."""
    kinds = [_kind(line) for line in page.lines]
    odd = next(row for row, kind in enumerate(kinds) if kinds.count(kind) == 1)
    yield _reading(rng, kinds[odd], page.lines[odd].cells[0])
    yield _by_colour(rng, rng.choice(page.lines))
    for row in rng.sample(range(len(page.lines)), rng.randint(1, 2)):
        yield _by_place(rng, page.lines, row)


def _about_fields(rng: random.Random, page: Page) -> Iterator[Question]:
    """Two fields by their names."""
    for line in rng.sample(page.lines, 2):
        name, value = line.cells
        wordings: tuple[str, ...] = ("what is the {}?", "read the {}.", "which {} is given?")
        if name in GOODS:
            wordings = ("how much is the {}?", "what does the {} cost?", "what is the price of the {}?")
        yield Question(rng.choice(wordings).format(name.lower()), (value,), "field")


_QUESTIONS: Mapping[str, Callable[[random.Random, Page], Iterator[Question]]] = {
    "pair": _about_pair,
    "list": _about_list,
    "form": _about_fields,
    "receipt": _about_fields,
}


def _kind(line: Line) -> str:
    return "number" if line.cells[0].isdecimal() else "word"


def _reading(rng: random.Random, kind: str, text: str) -> Question:
    wording = rng.choice(("what is the {}?", "read the {}.", "which {} is printed?"))
    return Question(wording.format(kind), (text,), kind)


def _by_colour(rng: random.Random, line: Line) -> Question:
    wording = rng.choice(("what does the {} text say?", "read the {} text.", "what is printed in {}?"))
    return Question(wording.format(line.ink), line.cells, "colour")


def _by_place(rng: random.Random, lines: Sequence[Line], row: int) -> Question:
    names = [ORDINALS[row]] + ["top"] * (row == 0) + ["bottom"] * (row == len(lines) - 1)
    wording = rng.choice(("what does the {} line say?", "read the {} line.", "what is in the {} line?"))
    return Question(wording.format(rng.choice(names)), lines[row].cells, "line")


def _captions(rng: random.Random, page: Page) -> Iterator[Question]:
    """All of the text; how it looks; parts of it or another order."""
    whole = [": ".join(line.cells) for line in page.lines]
    yield _caption("write down all the text.", ", ".join(whole))
    paper = "dark" if max(page.look.paper) < 128 else "light"
    number = ("one line", "two lines", "three lines", "four lines")[len(whole) - 1]
    inks = ", ".join(dict.fromkeys(line.ink for line in page.lines))
    yield _caption("describe the print.", f"{number} on {paper} paper, {inks}")
    if len(whole) == 1:
        yield _caption("spell it backwards.", whole[0][::-1])
        start = rng.random() < 0.5
        yield _caption(
            f"how does it {'start' if start else 'end'}?", whole[0][:2] if start else whole[0][-2:]
        )
    elif len(page.lines[0].cells) == 2:
        side = rng.randrange(2)
        yield _caption(
            f"list what is on the {('left', 'right')[side]}.",
            ", ".join(line.cells[side] for line in page.lines),
        )
    else:
        yield _caption("list the lines from bottom to top.", ", ".join(whole[::-1]))
        yield _caption("how does every line start?", ", ".join(text[0] for text in whole))


def _caption(text: str, answer: str) -> Question:
    return Question(text, (answer,), "caption")


TASK = DrawnTask(
    name="ocr",
    title="OCR",
    version=1,
    types=("word", "number", "letter", "date", "code", "line", "colour", "field"),
    known=("word", "number"),
    plan=plan,
    draw=draw,
    metrics={"exact_match": METRICS["exact"], "anls": METRICS["anls"]},
    order=4,
    trained=True,
)
