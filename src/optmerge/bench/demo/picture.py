"""One picture of a comparison: what models answered about some scenes, a column for each capability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from optmerge.bench.tasks.drawn._drawing.fonts import font, wrapped
from optmerge.evaluate.scoring.boxes import Box

_WIDE, _MARGIN, _LINE = 224, 12, 17
_TITLE, _HEAD, _TEXT, _STRONG = (
    font("sans bold", 20),
    font("sans bold", 16),
    font("sans", 12),
    font("sans bold", 12),
)
_INK, _QUIET, RIGHT, WRONG = (32, 33, 36), (110, 114, 120), (26, 127, 75), (179, 38, 30)


@dataclass(frozen=True)
class Answer:
    """What one model said.

    Args:
        who: said it.
        text: as it was said.
        right: whether it is.
        box: what it points at, where it is a box.
    """

    who: str
    text: str
    right: bool
    box: Box | None = None


@dataclass(frozen=True)
class Card:
    """A scene, what was asked about it, and what was answered.

    Args:
        image: RGB, of any size; it is shown in a square.
        question: text.
        truth: a right answer.
        answers: in the order they are shown.
    """

    image: Image.Image
    question: str
    truth: str
    answers: Sequence[Answer]


def draw(path: Path, title: str, columns: Mapping[str, Sequence[Card]]) -> Path:
    """Write the picture as PNG.

    Args:
        path: the file; its folder is made if need be.
        title: a line above everything.
        columns: title of a column → its cards, as many in each.
    """
    texts = {
        name: [wrapped(card.question, _STRONG, _WIDE) for card in cards] for name, cards in columns.items()
    }
    rows = max(map(len, columns.values()))
    deepest = [max(len(lines[row]) for lines in texts.values() if row < len(lines)) for row in range(rows)]
    answers = max(len(card.answers) for cards in columns.values() for card in cards)
    heights = [_WIDE + _LINE * (lines + answers + 1) + 2 * _MARGIN for lines in deepest]
    top = 80
    sheet = Image.new("RGB", (len(columns) * (_WIDE + 2 * _MARGIN), top + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 12), title, _INK, _TITLE)
    for column, (name, cards) in enumerate(columns.items()):
        left = column * (_WIDE + 2 * _MARGIN) + _MARGIN
        pen.text((left, 50), name, _INK, _HEAD)
        for row, card in enumerate(cards):
            _card(sheet, pen, card, texts[name][row], (left, top + sum(heights[:row])), deepest[row])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
    return path


def _card(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    card: Card,
    question: Sequence[str],
    at: tuple[int, int],
    lines: int,
) -> None:
    """The picture, the question in so many lines, the truth, and every answer."""
    left, top = at
    shown = ImageOps.contain(card.image, (_WIDE, _WIDE), Image.Resampling.NEAREST)
    sheet.paste(shown, at)
    for answer in card.answers:
        if answer.box:
            colour = RIGHT if answer.right else WRONG
            x1, y1 = left + shown.width * answer.box.x1, top + shown.height * answer.box.y1
            x2, y2 = left + shown.width * answer.box.x2, top + shown.height * answer.box.y2
            pen.rectangle((x1, y1, x2, y2), None, colour, 2)
            pen.text((x1 + 4, y1 + 2), answer.who, colour, _STRONG, stroke_width=2, stroke_fill="white")
    under = top + _WIDE + 4
    for number, text in enumerate(question):
        pen.text((left, under + _LINE * number), text, _INK, _STRONG)
    under += _LINE * lines
    pen.text((left, under), f"truth: {card.truth}", _QUIET, _TEXT)
    for number, answer in enumerate(card.answers, 1):
        mark, colour = ("✓", RIGHT) if answer.right else ("✗", WRONG)
        pen.text((left, under + _LINE * number), f"{mark} {answer.who}: {_short(answer.text)}", colour, _TEXT)


def _short(text: str) -> str:
    """What fits on a line beside the name."""
    return text if len(text) <= 22 else text[:21] + "…"
