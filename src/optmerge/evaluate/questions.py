"""What a model is asked, what is right, and the pictures that questions are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """What is asked about a picture or a video, and what is right.

    Args:
        text: what the model reads; drawn tasks write lower-case prose, with capital letters only where the
            text quotes what is printed in the picture.
        answers: every accepted answer; training teaches the first.
        type: the question type within its task.
    """

    text: str
    answers: tuple[str, ...]
    type: str


@dataclass(frozen=True)
class Item:
    """A question and what it is about.

    Args:
        question: as a model is asked it.
        image: RGB, of any size; None where the question is about a video.
        video: file of a video with its sound; None where the question is about a picture.
        where: file and row that the item comes from, for messages; empty where it was drawn.
    """

    question: Question
    image: Image | None = None
    video: Path | None = None
    where: str = ""


Metric = Callable[[str, Question], float]
"""(what a model said, what it was asked) → a score in [0, 1]."""


def read_picture(path: Path) -> Image:
    """The picture in a file, in RGB, turned as its EXIF orientation says.

    Raises:
        InputError: there is no such file, no picture in it, one that is damaged or far too large to be
            unpacked, or Pillow isn't installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError("Pillow isn't installed", hint="pip install 'optmerge[ask]'") from None
    if not path.is_file():
        raise InputError("no such picture", where=path)
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    # Pillow's readers raise ValueError and SyntaxError for damage inside a file that opens.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise InputError("the picture can't be read", where=path, got=problem) from None
