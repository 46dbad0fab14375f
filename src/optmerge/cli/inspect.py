"""`optmerge inspect`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from optmerge.cli.options import AsJson


def command(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Checkpoint or adapter.")],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint or an adapter holds, by component and kind; reads headers only.

    Example: `optmerge inspect zoo/full/base`
    """
    from optmerge.engine.inspect import inspect

    found = inspect(model)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        from optmerge.cli.console import print_inspection

        print_inspection(found)
