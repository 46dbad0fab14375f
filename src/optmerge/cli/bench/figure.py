"""`optmerge bench figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.bench._options import OUT, Lines, Questions, Records, folders


def command(
    records: Records = None,
    line: Lines = None,
    n: Questions = None,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/figures"),
) -> None:
    """Draw the records: radar, heat map, scale sweeps, cost, and the paper's results beside ours.

    Example: `optmerge bench figure --out out/figures`
    """
    from optmerge.bench.trials import output
    from optmerge.bench.trials.figures import draw

    for path in draw(output.read(folders("bench", records, OUT), line or [], n), out):
        print(path)
