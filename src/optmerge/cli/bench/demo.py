"""`optmerge bench demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/demo"),
    line: Annotated[str, typer.Option(help="Line of models, such as full or lora.")] = "full",
    zoo: Annotated[
        Path | None, typer.Option(help="Other models than the shipped ones.", metavar="DIR")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Questions a capability; 60 by default.", min=1)
    ] = None,
) -> None:
    """Merge the five shipped experts with several methods and ask everyone the same test questions.

    Example: `optmerge bench demo`
    """
    from optmerge.bench.demo.comparison import QUESTIONS, run

    run(out, line=line, zoo=zoo, n=n or QUESTIONS)
