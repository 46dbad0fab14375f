"""`optmerge omni ask`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.omni._options import check_installed
from optmerge.errors import printable, readable
from optmerge.evaluate.answering import CHAT_TOKENS


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Omni model, or adapter of one.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION…", help="Each is asked on its own.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture; repeat.", metavar="FILE")] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Sound, also that of a video; repeat.", metavar="FILE")
    ] = None,
    video: Annotated[list[Path] | None, typer.Option(help="Video; repeat.", metavar="FILE")] = None,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = CHAT_TOKENS,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Ask about pictures, sound and video, greedily; one answer a line.

    Items go before the question, pictures first, or where it says `<image>`, `<audio>`, `<video>`.

    Example: `optmerge omni ask omni --image band.png --audio band.wav "who is singing?"`
    """
    check_installed()
    from optmerge.engine.planning.request import check_device
    from optmerge.omni.ask import answer, load

    check_device(device)

    items = {"image": image or [], "audio": audio or [], "video": video or []}
    asked = load(model, device=device)
    for question in questions:
        with _notices():
            reply = answer(asked, question, items, longest=longest)
        print(readable(reply))


@contextmanager
def _notices() -> Iterator[None]:
    """Prints what of the media isn't taken as it is, once a question, on the error stream."""
    from optmerge.omni.media import MediaWarning

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", MediaWarning)
        yield
    for words in dict.fromkeys(str(each.message) for each in found):
        print(f"note: {printable(words)}", file=sys.stderr)
