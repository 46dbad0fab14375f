"""A contact sheet: some of a task's scenes as one picture, each with a question and its answer below."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from optmerge.bench.tasks._registry import SIDE, Scene, Split, Task
from optmerge.bench.tasks.drawn._drawing.fonts import font, wrapped
from optmerge.evaluate.questions import Question

_SCALE = 2
_MARGIN, _LINE, _FONT = 8, 15, font("sans", 12)
_WIDTH = SIDE * _SCALE
_QUESTION, _ANSWER, _CAPTION = "black", (0, 100, 30), (90, 90, 90)


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
    """Writes the first scenes of a split as a PNG file.

    Scene n shows its question number n (counted round), so that the sheet goes through every type.

    Args:
        task: whose scenes.
        split: which of them.
        seed: as in `Task.scene`.
        path: the file; an existing one is replaced.
        rows: of scenes.
        columns: of scenes.
        captions: whether a caption follows the question.
    """
    scenes = [task.scene(split, index, seed) for index in range(rows * columns)]
    texts = [_lines(scene, index, captions) for index, scene in enumerate(scenes)]
    height = _WIDTH + _LINE * max(map(len, texts)) + 2 * _MARGIN
    width = _WIDTH + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (scene, lines) in enumerate(zip(scenes, texts, strict=True)):
        left, top = index % columns * width + _MARGIN, index // columns * height + _MARGIN
        sheet.paste(scene.image.resize((_WIDTH, _WIDTH), Image.Resampling.NEAREST), (left, top))
        for number, (line, colour) in enumerate(lines):
            pen.text((left, top + _WIDTH + _LINE * number), line, colour, _FONT)
    sheet.save(path, format="PNG")


def _lines(scene: Scene, index: int, captions: bool) -> list[tuple[str, str | tuple[int, int, int]]]:
    """What stands below a scene: (line, colour) pairs."""

    def both(question: Question, kind: str, colour: str | tuple[int, int, int]) -> None:
        lines.extend((line, colour) for line in wrapped(f"{kind}{question.text}", _FONT, _WIDTH))
        lines.extend((line, _ANSWER) for line in wrapped(question.answers[0], _FONT, _WIDTH))

    lines: list[tuple[str, str | tuple[int, int, int]]] = []
    question = scene.questions[index % len(scene.questions)]
    both(question, f"{question.type}: ", _QUESTION)
    if captions:
        both(scene.captions[index % len(scene.captions)], "", _CAPTION)
    return lines
