"""easy-VQA: one coloured shape on a 64×64 image and questions about it (Zhou 2019, PyPI package `easy-vqa`).

The package ships 4,000 / 1,000 train / test images with 38,575 / 9,673 questions (107 wordings, 13 answers).
A question is of the type its answer belongs to, so the three types partition the data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optmerge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "validation", "test"]
ANSWERS: Mapping[str, tuple[str, ...]] = {
    "colour": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
    "shape": ("circle", "rectangle", "triangle"),
    "presence": ("yes", "no"),
}
TYPES = tuple(ANSWERS)
VALIDATION_IMAGES = 500
"""The last 500 training images validate; the package itself has two splits only."""


@dataclass(frozen=True)
class EasyQuestion:
    """One question about one image; `image` counts within the package's folder that `split` comes from."""

    image: int
    text: str
    answer: str
    type: str
    split: Split


def question_type(answer: str) -> str:
    """The type whose answers hold `answer`: colour, shape or presence."""
    for name, answers in ANSWERS.items():
        if answer in answers:
            return name
    raise InputError("an answer belongs to no question type", got=answer, expected=dict(ANSWERS))


@cache
def questions(split: Split) -> tuple[EasyQuestion, ...]:
    """Every question of a split in the package's order; splits share no image."""
    import easy_vqa

    read = easy_vqa.get_test_questions if split == "test" else easy_vqa.get_train_questions
    rows = [(text, answer, int(image)) for text, answer, image in zip(*read(), strict=True)]
    if split != "test":
        first = 1 + max(image for *_, image in rows) - VALIDATION_IMAGES
        rows = [row for row in rows if (row[2] >= first) == (split == "validation")]
    return tuple(
        EasyQuestion(image, text, answer, question_type(answer), split) for text, answer, image in rows
    )


@cache  # the package lists a folder of thousands at each call
def image_paths(split: Split) -> dict[int, Path]:
    """Image number → PNG file, for the package's folder that the split's images are in."""
    import easy_vqa

    read = easy_vqa.get_test_image_paths if split == "test" else easy_vqa.get_train_image_paths
    return {int(number): Path(path) for number, path in read().items()}


def image(question: EasyQuestion) -> Image:
    """The question's picture, RGB, 64×64 pixels."""
    from PIL import Image

    with Image.open(image_paths(question.split)[question.image]) as file:
        return file.convert("RGB")


def captions(split: Split) -> dict[int, tuple[str, str]]:
    """Image → (colour, shape), for the images whose questions and answers name both.

    The data set has no captions; an answered question such as "is there a teal shape?" — "yes" states a fact.
    """
    facts: dict[int, dict[str, str]] = defaultdict(dict)
    for question in questions(split):
        stated = [question.answer] if question.type != "presence" else []
        negated = " not " in question.text or " no " in question.text
        if question.type != "presence" or (question.answer == "yes") != negated:
            stated += question.text.rstrip("?").split()  # what a question takes for granted is there
        for word in stated:
            for name in ("colour", "shape"):
                if word in ANSWERS[name]:
                    facts[question.image][name] = word
    return {
        image: (fact["colour"], fact["shape"])
        for image, fact in sorted(facts.items())
        if {"colour", "shape"} <= fact.keys()
    }
