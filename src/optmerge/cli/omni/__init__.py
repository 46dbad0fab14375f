"""`optmerge omni …`: one file a command. Compose models of several modalities, ask them, measure them."""

from __future__ import annotations

import typer

from optmerge.cli.omni import ask, compose, demo, import_, run, table, train

app = typer.Typer(
    help="One model for pictures, sound and video, composed of experts that know one each.",
    no_args_is_help=True,
)
for _module in (train, run, table, demo, compose, import_, ask):
    app.command(_module.__name__.rpartition(".")[2].rstrip("_"))(_module.command)
