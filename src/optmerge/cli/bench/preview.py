"""`optmerge bench preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    task: Annotated[str, typer.Argument(help="Task: vqa, geometry, chart, …", metavar="TASK")],
    out: Annotated[Path, typer.Option(help="PNG file.", metavar="FILE")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which scenes.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the scenes.", min=0)] = 0,
    captions: Annotated[bool, typer.Option("--captions", help="Add what the base learns to see by.")] = False,
) -> None:
    """Draw some of a task's pictures, each with a question and its answer, as one sheet.

    Example: `optmerge bench preview chart --out chart.png`
    """
    from optmerge.bench.preview import contact_sheet
    from optmerge.bench.tasks import get

    chosen = get(task)
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(chosen, split, seed, out, captions=captions)
    print(out)
