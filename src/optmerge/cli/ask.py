"""`optmerge ask`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.errors import InputError, readable

if TYPE_CHECKING:
    from PIL import Image


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or adapter: folder or hub id.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION…", help="Each is asked on its own.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture that is asked about; repeat.", metavar="FILE")
    ] = None,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = 128,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Ask a model about a picture, greedily; one answer a line.

    Example: `optmerge ask merged --image receipt.png "how much is the tea?"`
    """
    pictures = [_picture(path) for path in image or []]
    from optmerge.engine.planning.request import check_device
    from optmerge.evaluate.chat import load

    check_device(device)
    chat = load(model, device=device)
    for question in questions:
        print(readable(chat.ask(question, pictures, longest=longest)))


def _picture(path: Path) -> Image.Image:
    """A picture file in RGB, its orientation put right."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise InputError("Pillow isn't installed", hint="pip install 'optmerge[ask]'") from None
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except FileNotFoundError:
        raise InputError("no such picture", where=path) from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as problem:
        raise InputError("the picture can't be read", where=path, got=problem) from None
