"""A contact sheet: some of a task's pictures in one, each with a question and its answer below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from optmerge.bench.tasks import DrawnTask, Split, Task
from optmerge.bench.tasks.drawn._drawing.fonts import font, wrapped
from optmerge.bench.tasks.real._rows import seen
from optmerge.evaluate.questions import Item, Question

_WIDTH, _MARGIN, _LINE, _FONT = 224, 8, 15, font("sans", 12)
_Colour = str | tuple[int, int, int]
_QUESTION, _ANSWER, _CAPTION = "black", (0, 100, 30), (90, 90, 90)


@dataclass(frozen=True)
class _Cell:
    """A picture, and what stands below it: (line, colour) pairs."""

    image: Image.Image
    lines: list[tuple[str, _Colour]]


def contact_sheet(
    task: Task,
    split: Split,
    seed: int,
    path: Path,
    *,
    rows: int = 5,
    columns: int = 6,
    captions: bool = False,
) -> None:
    """Writes the first pictures of a split as a PNG file.

    Scene n of a drawn task shows its question number n (counted round), so that the sheet goes through every
    type. Of a video the picture in the middle is shown.

    Args:
        task: whose pictures.
        split: which of them.
        seed: of a drawn task's scenes.
        path: the file; an existing one is replaced.
        rows: of pictures.
        columns: of pictures.
        captions: whether a caption follows the question of a drawn scene.

    Raises:
        InputError: the task's data set isn't there or can't be read.
    """
    made = (
        _scenes(task, split, seed, captions)
        if isinstance(task, DrawnTask)
        else _items(task, split, rows * columns)
    )
    cells = list(islice(made, rows * columns))
    height = _WIDTH + _LINE * max(len(cell.lines) for cell in cells) + 2 * _MARGIN
    width = _WIDTH + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        left, top = index % columns * width + _MARGIN, index // columns * height + _MARGIN
        sheet.paste(ImageOps.contain(cell.image, (_WIDTH, _WIDTH), Image.Resampling.NEAREST), (left, top))
        for number, (line, colour) in enumerate(cell.lines):
            pen.text((left, top + _WIDTH + _LINE * number), line, colour, _FONT)
    sheet.save(path, format="PNG")


def _scenes(task: DrawnTask, split: Split, seed: int, captions: bool) -> Iterator[_Cell]:
    index = 0
    while True:
        scene = task.scene(split, index, seed)
        lines = _asked(scene.questions[index % len(scene.questions)])
        if captions:
            caption = scene.captions[index % len(scene.captions)]
            lines += [*_wrapped(caption.text, _CAPTION), *_wrapped(caption.answers[0], _ANSWER)]
        yield _Cell(scene.image, lines)
        index += 1


def _items(task: Task, split: Split, n: int) -> Iterator[_Cell]:
    for item in task.items(split, n):
        yield _Cell(_picture(item), _asked(item.question))


def _picture(item: Item) -> Image.Image:
    return item.image or seen(item, 1)[0]


def _asked(question: Question) -> list[tuple[str, _Colour]]:
    text = _wrapped(f"{question.type}: {question.text}", _QUESTION)
    return [*text, *_wrapped(question.answers[0], _ANSWER)]


def _wrapped(text: str, colour: _Colour) -> list[tuple[str, _Colour]]:
    return [(line, colour) for line in wrapped(text, _FONT, _WIDTH)]
