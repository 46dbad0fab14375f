"""What a model is asked, what is right, and the pictures that questions are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
"""EXIF tag of the orientation."""


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
    with _opened(path) as (picture, turned):
        return turned(picture).convert("RGB")


def read_picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture in a file, as `read_picture` gives it; only its header is read.

    Raises:
        InputError: as `read_picture`, but that damage behind the header isn't seen.
    """
    with _opened(path) as (picture, _):
        sideways = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (picture.height, picture.width) if sideways else picture.size


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image, Callable[[Image], Image]]]:
    """The picture in a file, not unpacked yet, and the function that turns it upright."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError("Pillow isn't installed", hint="pip install 'optmerge[ask]'") from None
    if not path.is_file():
        raise InputError("no such picture", where=path)
    try:
        with Image.open(path) as picture:
            yield picture, ImageOps.exif_transpose
    # Pillow's readers raise ValueError and SyntaxError for damage inside a file that opens.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise InputError("the picture can't be read", where=path, got=problem) from None
