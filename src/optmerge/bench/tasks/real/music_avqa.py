"""MUSIC-AVQA (Li et al. 2022): open questions about performances, answered with one of 42 words.

`avqa-train.json`, `avqa-val.json` and `avqa-test.json` are lists of rows. A row's type and the words for its
question's placeholders are JSON within strings; the answer's name is spelt `anser`. The files lie in the data
set's folder, the videos in its subfolder `videos`. Accuracy is the share of exact answers, numbers as words
or digits: of each type, and of all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Json, model_validator

from optmerge.bench.modalities.templates import ClipQuestion
from optmerge.bench.modalities.world import Modality
from optmerge.bench.tasks import DataSet, Split
from optmerge.bench.tasks.real._rows import Name, Row, Text, find_media, read_rows, row_name
from optmerge.evaluate.questions import Item
from optmerge.evaluate.scoring import metric
from optmerge.evaluate.scoring.vqa import exact_match

NEEDS: Mapping[str, tuple[Modality, ...]] = {
    "Audio": ("audio",),
    "Visual": ("video",),
    "Audio-Visual": ("audio", "video"),
}
FILES: Mapping[Split, str] = {
    "train": "avqa-train.json",
    "validation": "avqa-val.json",
    "test": "avqa-test.json",
}
"""Split → annotation file."""
_PLACEHOLDER = re.compile(r"<[^<>]*>")


class _Row(Row):
    video_id: Name
    type: Json[tuple[Literal["Audio", "Visual", "Audio-Visual"], Text]]
    question_content: Text
    templ_values: Json[tuple[Text, ...]]
    anser: Text

    @model_validator(mode="after")
    def _every_placeholder_has_its_word(self) -> _Row:
        places = len(_PLACEHOLDER.findall(self.question_content))
        if places != len(self.templ_values):
            raise ValueError(f"{places} placeholders and {len(self.templ_values)} words to fill them")
        return self

    @property
    def text(self) -> str:
        """The question with its placeholders filled, in their order."""
        words = iter(self.templ_values)
        return _PLACEHOLDER.sub(lambda _: next(words), self.question_content)


def load(annotations: Path, media: Path) -> tuple[Item, ...]:
    """Every row, those marked as deleted too: the published accuracies count them all.

    Args:
        annotations: `avqa-train.json`, `avqa-val.json`, `avqa-test.json` or a file like them.
        media: folder with the videos, named by the rows' `video_id`.

    Raises:
        InputError: a row can't be understood, or its video isn't there.
    """
    rows = read_rows(annotations, _Row)
    videos = find_media(media, [row.video_id for row in rows], annotations)
    answers = tuple(sorted({row.anser for row in rows}))
    return tuple(
        Item(_asked(row, answers), video=video, where=row_name(annotations, index))
        for index, (row, video) in enumerate(zip(rows, videos, strict=True))
    )


def _asked(row: _Row, answers: tuple[str, ...]) -> ClipQuestion:
    modality, family = row.type
    return ClipQuestion(
        row.text, (row.anser,), f"{modality} {family}", family.lower(), NEEDS[modality], answers
    )


TASK = DataSet(
    name="music_avqa",
    title="MUSIC-AVQA",
    version=1,
    types=(),
    metrics={"exact_match": metric(exact_match)},
    splits=tuple(FILES),
    load=lambda folder, split: load(folder / FILES[split], folder / "videos"),
)
