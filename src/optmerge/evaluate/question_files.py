"""Questions of one's own: a file of JSON lines, read and checked whole before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from optmerge.checkpoints.json_files import parse_object
from optmerge.errors import InputError
from optmerge.evaluate.questions import Question, read_picture_size
from optmerge.evaluate.scoring.boxes import PictureSize
from optmerge.evaluate.scoring.choices import read_options
from optmerge.evaluate.scoring.metrics import METRICS
from optmerge.evaluate.scoring.ocr import edits


@dataclass(frozen=True)
class FileQuestion(Question):
    """A question of a file; its `type` is its group.

    Args:
        media: medium (`image`, `audio`, `video`) → files that are shown before the question.
        metric: name of the metric, from `METRICS`.
        id: given in the file, or the number of the line.
        where: file and line, for messages.
        size: width and height of the first picture; None where there is none.
    """

    media: Mapping[str, tuple[Path, ...]]
    metric: str
    id: str
    where: str
    size: PictureSize | None

    @property
    def group(self) -> str:
        """Name of the group; empty where the file names none."""
        return self.type

    def score(self, said: str) -> float:
        """Score in [0, 1] of what a model said; the question has answers."""
        return METRICS[self.metric](said, self)


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    """Numbers, truth values and boxes as a model would write them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and len(value) == 4 and all(isinstance(each, int | float) for each in value):
        return json.dumps(value)
    return str(value) if isinstance(value, int | float) else value


Paths = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_several)]
Text = Annotated[str, BeforeValidator(_as_text)]
Words = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]


class _Line(BaseModel):
    """One line of a file, with keys of the user's own besides."""

    model_config = ConfigDict(extra="allow", strict=True)

    question: Words
    image: Paths = []
    audio: Paths = []
    video: Paths = []
    answers: list[Text] | None = None
    answer: Text | None = None
    choices: Annotated[list[Words], Field(min_length=2, max_length=10)] | None = None
    group: Text = ""
    id: Text | None = None
    metric: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.answers is not None and self.answer is not None:
            raise ValueError("`answer` and `answers` are both given")
        if self.answers == []:
            raise ValueError("`answers` is empty; leave the key out where there is no answer")
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is unknown; known are {', '.join(METRICS)}")
        for key in self.model_extra or {}:
            for known in type(self).model_fields:
                if len(known) > 2 and edits(key, known) <= 2:
                    raise ValueError(f"unknown key {key!r}: did you mean {known!r}?")
        return self

    @property
    def text(self) -> str:
        """The question, with its options where they don't stand in it."""
        if self.choices is None or read_options(self.question):
            return self.question
        options = (f"({letter}) {choice}" for letter, choice in zip("ABCDEFGHIJ", self.choices, strict=False))
        return f"{self.question} {' '.join(options)}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every accepted answer; none where the line has none."""
        return tuple(self.answers or ([] if self.answer is None else [self.answer]))


def read_questions(file: Path) -> list[FileQuestion]:
    """Every question of a file, in its order.

    Each line is an object with `question`, and what else it needs: `image`, `audio`, `video` (a path,
    relative to the file's folder, or a list of paths), `answer` or `answers`, `choices`, `group`, `id`,
    `metric` (see `METRICS`; `choice` where there are choices, else `exact`). Empty lines are passed over.

    Args:
        file: UTF-8 text.

    Raises:
        InputError: the file can't be read or holds no question; a line isn't such an object, names a file
            that isn't there or a picture that can't be read, or repeats an id.
    """
    found: list[FileQuestion] = []
    seen: dict[str, str] = {}
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        question = _question(_parsed(line, where), file.parent, number, where)
        if question.id in seen:
            raise InputError(f"two questions have the id {question.id!r}", where=where, got=seen[question.id])
        seen[question.id] = where
        found.append(question)
    if not found:
        raise InputError("there is no question in the file", where=file, expected="one JSON object a line")
    return found


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, text) of every line that isn't empty."""
    if not file.is_file():
        raise InputError(
            "there is no such file of questions", where=file, expected="one JSON object a line (JSONL)"
        )
    try:
        with file.open("rb") as opened:
            yield from ((number, line) for number, line in enumerate(opened, 1) if line.strip())
    except OSError as problem:
        raise InputError("the questions can't be read", where=file, got=problem.strerror) from None


def _parsed(line: bytes, where: str) -> _Line:
    data = parse_object(line.removeprefix(b"\xef\xbb\xbf"), where, "line", InputError)
    try:
        return _Line.model_validate(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        missing = first["type"] == "missing"
        raise InputError(
            f"the line has no {key!r}" if missing else f"the line's {key or 'keys'} can't be used",
            where=where,
            got=None if missing or not key else repr(first["input"]),
            expected=first["msg"].removeprefix("Value error, "),
        ) from None


def _question(line: _Line, folder: Path, number: int, where: str) -> FileQuestion:
    named = {"image": line.image, "audio": line.audio, "video": line.video}
    media = {medium: tuple(folder / path for path in paths) for medium, paths in named.items() if paths}
    for path in (path for paths in media.values() for path in paths):
        if not path.is_file():
            raise InputError(
                "there is no such file", where=where, got=path, hint="paths start at the file's folder"
            )
    sizes = [read_picture_size(path) for path in media.get("image", ())]
    return FileQuestion(
        text=line.text,
        answers=line.accepted,
        type=line.group,
        media=media,
        metric=line.metric or ("choice" if line.choices else "exact"),
        id=str(number) if line.id is None else line.id,
        where=where,
        size=sizes[0] if sizes else None,
    )
