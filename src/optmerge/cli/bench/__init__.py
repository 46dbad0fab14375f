"""`optmerge bench …`: one file a command."""

from __future__ import annotations

import typer

from optmerge.cli.bench import demo, figure, preview, questions, run, table, train

app = typer.Typer(help="Train experts, evaluate them, and compare merging methods.", no_args_is_help=True)
for _module in (run, table, figure, preview, questions, demo, train):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)
