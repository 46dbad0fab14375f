"""AVQA (Yang et al. 2022): four choices about everyday videos, which are those of VGGSound.

`train_qa.json` and `val_qa.json` are lists of rows with a video's name (`<YouTube id>_<second>`), choices,
and the number of the right one. They lie in the data set's folder, the videos in its subfolder `videos`.
Accuracy is the share of right choices, made by letter or in words, for each question type and in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from optmerge.bench.modalities.templates import ClipQuestion
from optmerge.bench.modalities.world import Modality
from optmerge.bench.tasks import DataSet, Split
from optmerge.bench.tasks.real._rows import Name, Row, Text, find_media, read_rows, row_name
from optmerge.evaluate.questions import Item
from optmerge.evaluate.scoring import choices

NEEDS: Mapping[str, tuple[Modality, ...]] = {
    "View": ("video",),
    "Sound": ("audio",),
    "Both": ("audio", "video"),
}
LETTERS = "ABCDEFGHIJ"
FILES: Mapping[Split, str] = {"train": "train_qa.json", "test": "val_qa.json"}
"""Split → annotation file; results are published on the file of the validation questions."""


class _Row(Row):
    video_name: Name
    question_text: Text
    multi_choice: Annotated[tuple[Text, ...], Field(min_length=2, max_length=len(LETTERS))]
    answer: int
    question_relation: Literal["View", "Sound", "Both"]
    question_type: Text

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> _Row:
        if not 0 <= self.answer < len(self.multi_choice):
            raise ValueError(f"answer {self.answer} isn't the number of a choice, counted from 0")
        return self


def load(annotations: Path, media: Path) -> tuple[Item, ...]:
    """Every row as a question that lists its choices `(A)`, `(B)`, …; the answer is a letter.

    Args:
        annotations: `train_qa.json`, `val_qa.json` or a file like them.
        media: folder with the videos, named as the rows name them.

    Raises:
        InputError: a row can't be understood, or its video isn't there.
    """
    rows = read_rows(annotations, _Row)
    videos = find_media(media, [row.video_name for row in rows], annotations)
    return tuple(
        Item(_asked(row), video=video, where=row_name(annotations, index))
        for index, (row, video) in enumerate(zip(rows, videos, strict=True))
    )


def _asked(row: _Row) -> ClipQuestion:
    listed = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, row.multi_choice, strict=False)]
    return ClipQuestion(
        text=" ".join([row.question_text, *listed]),
        answers=(LETTERS[row.answer],),
        type=row.question_type,
        family=row.question_type,
        needs=NEEDS[row.question_relation],
        choices=tuple(LETTERS[: len(listed)]),
    )


TASK = DataSet(
    name="avqa",
    title="AVQA",
    version=1,
    types=(),
    metrics={"accuracy": choices.accuracy},
    splits=tuple(FILES),
    load=lambda folder, split: load(folder / FILES[split], folder / "videos"),
)
