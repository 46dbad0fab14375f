"""`optmerge verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.options import AsJson


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A merged checkpoint or adapter.")],
    base: Annotated[str | None, typer.Option(help="Base to compare with.", metavar="MODEL")] = None,
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load it in transformers.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a merged checkpoint: complete, finite, loads strictly, ties hold, generates.

    Example: `optmerge verify merged`. Exit code 1 when a check fails.
    """
    from optmerge.engine.verify.checks import verify

    found = verify(folder, base=base, load=load)
    if as_json:
        print(json.dumps(found.plain(), indent=1))
    else:
        from optmerge.cli.console import print_verification

        print_verification(found)
    if not found.ok:
        raise typer.Exit(1)
