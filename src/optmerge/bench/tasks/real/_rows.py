"""What data sets of videos have in common: rows of a JSON file, and a video with sound for each row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from optmerge.errors import InputError
from optmerge.evaluate.questions import Item
from optmerge.omni.media import MediaWarning, Wave, read_audio, read_video

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
"""How a video's file may be called after its name, the data sets' own first."""
Name = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")]
"""A video's name; leads nowhere out of the folder."""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Row(BaseModel):
    """A row as the annotation file has it; values have the declared types, and other names are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


_Row = TypeVar("_Row", bound=Row)


def seen(item: Item, frames: int) -> list[Image]:
    """So many pictures of an item's video, the middles of equal parts.

    Raises:
        InputError: no video can be read; names file and row.
    """
    with _named(item) as video:
        return read_video(video, frames)


def heard(item: Item, rate: int) -> Wave:
    """The sound of an item's video: float32 samples in [-1, 1], so many a second, channels averaged.

    Raises:
        InputError: no sound can be read; names file and row.
    """
    with _named(item) as video, warnings.catch_warnings():
        warnings.simplefilter("ignore", MediaWarning)  # hardly any video has an encoder's rate
        return read_audio(video, rate)


@contextmanager
def _named(item: Item) -> Iterator[Path]:
    """The item's video; whatever is wrong with it is said of its row."""
    assert item.video is not None
    try:
        yield item.video
    except InputError as error:
        raise InputError(
            error.what,
            where=f"{error.where}, for {item.where}",
            got=error.got,
            expected=error.expected,
            hint=error.hint or "fetch the file again, or take the row out of the annotation file",
        ) from None


def read_rows(path: Path, kind: type[_Row]) -> tuple[_Row, ...]:
    """Every row of an annotation file, a JSON list.

    Raises:
        InputError: the file can't be read, or names the first row that isn't as it should be.
    """
    many: Any = GenericAlias(tuple, (kind, ...))
    try:
        rows: tuple[_Row, ...] = TypeAdapter(many).validate_json(path.read_bytes())
    except OSError as problem:
        raise InputError("the annotation file can't be read", where=path, got=problem.strerror) from None
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["loc"] and isinstance(first["loc"][0], int):
            number, *fields = first["loc"]
            where = ".".join(map(str, [row_name(path, int(number)), *fields]))
            raise InputError(
                "a row can't be understood", where=where, got=first["input"], expected=first["msg"]
            ) from None
        raise InputError(
            "not an annotation file", where=path, got=first["msg"], expected="a JSON list of rows"
        ) from None
    if not rows:
        raise InputError("the annotation file has no rows", where=path)
    return rows


def row_name(path: Path, index: int) -> str:
    """How messages call a row; the first is row 1."""
    return f"{path} row {index + 1}"


def find_media(folder: Path, names: Sequence[str], annotations: Path) -> list[Path]:
    """The file of each row's video.

    Args:
        folder: with all of them.
        names: of the videos, one for each row.
        annotations: the rows' file, for messages.

    Raises:
        InputError: a file isn't there; names the first such row and says how many there are.
    """
    found = [next((p for e in ENDINGS if (p := folder / f"{name}{e}").is_file()), None) for name in names]
    missing = [index for index, path in enumerate(found) if path is None]
    if missing:
        first = missing[0]
        raise InputError(
            "a video isn't there",
            where=row_name(annotations, first),
            got=f"no {folder / names[first]} with any of {', '.join(ENDINGS)}; "
            f"{len(missing)} of {len(names)} rows lack their video",
            hint="fetch it, or take those rows out of the annotation file: what is left is another set",
        )
    return [path for path in found if path is not None]
