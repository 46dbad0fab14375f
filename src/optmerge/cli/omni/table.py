"""`optmerge omni table`."""

from __future__ import annotations

from typing import Annotated

import typer

from optmerge.cli.bench._options import (
    AsCsv,
    AsJson,
    AsLatex,
    AsMarkdown,
    Records,
    chosen_form,
    folders,
)
from optmerge.cli.omni._options import OUT, Questions


def command(
    records: Records = None,
    n: Questions = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose inputs are taken away; the best merge by default.", metavar="NAME"),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's rows, by family.")] = False,
    markdown: AsMarkdown = False,
    csv: AsCsv = False,
    latex: AsLatex = False,
    as_json: AsJson = False,
) -> None:
    """Show the tables that the records hold: complementarity, what merging costs, inputs taken away.

    Example: `optmerge omni table --markdown`
    """
    from optmerge.bench.modalities import output
    from optmerge.cli.console import console

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    found = output.read(folders("omni", records, OUT), n)
    if paper:
        output.show_row_form(found, form, console())
    else:
        output.show_all(found, form, console(), model)
