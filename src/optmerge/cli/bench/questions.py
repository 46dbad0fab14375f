"""`optmerge bench questions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for the file and its pictures.", metavar="DIR")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; repeat. By default those that experts learn.")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which questions.")
    ] = "validation",
    n: Annotated[int, typer.Option("--n", help="Questions a task.", min=1)] = 100,
) -> None:
    """Write the benchmark's questions and pictures as files that `optmerge eval` reads.

    Example: `optmerge bench questions --n 60 --out out/questions`
    """
    from optmerge.bench.exporting import export
    from optmerge.bench.tasks import get, registered

    chosen = (
        [get(name) for name in task] if task else [each for each in registered().values() if each.trained]
    )
    print(export(chosen, split, n, out))
