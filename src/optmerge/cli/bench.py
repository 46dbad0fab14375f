"""`optmerge bench …`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Train experts, evaluate them, and compare merging methods.", no_args_is_help=True)


@app.command()
def placeholder() -> None:
    """Replaced below."""
