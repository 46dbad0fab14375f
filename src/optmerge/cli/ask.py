"""`optmerge ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.errors import readable
from optmerge.evaluate.answering import CHAT_TOKENS


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or adapter: folder or hub id.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION…", help="Each is asked on its own.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture that is asked about; repeat.", metavar="FILE")
    ] = None,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = CHAT_TOKENS,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Ask a model about a picture, greedily; one answer a line.

    Example: `optmerge ask merged --image receipt.png "how much is the tea?"`
    """
    from optmerge.engine.planning.request import check_device
    from optmerge.evaluate.chat import load
    from optmerge.evaluate.questions import read_picture

    pictures = [read_picture(path) for path in image or []]
    check_device(device)
    chat = load(model, device=device)
    for said in chat.answers([chat.inputs(each, pictures) for each in questions], longest=longest):
        print(readable(said))
