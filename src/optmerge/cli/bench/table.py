"""`optmerge bench table`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from optmerge.cli.bench._options import (
    OUT,
    AsCsv,
    AsJson,
    AsLatex,
    AsMarkdown,
    Lines,
    Questions,
    Records,
    chosen_form,
    folders,
)
from optmerge.errors import InputError


def command(
    records: Records = None,
    line: Lines = None,
    n: Questions = None,
    rule: Annotated[
        Literal["fixed", "auto", "validation"] | None, typer.Option(help="Only merges with scales chosen so.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Which differences are real, pair by pair.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's tables instead of ours.")] = False,
    markdown: AsMarkdown = False,
    csv: AsCsv = False,
    latex: AsLatex = False,
    as_json: AsJson = False,
) -> None:
    """Show the table that the records hold.

    Example: `optmerge bench table --markdown`
    """
    from optmerge.bench.trials import output
    from optmerge.cli.console import console

    form = chosen_form(markdown=markdown, csv=csv, latex=latex, json=as_json)
    if paper and pairs:
        raise InputError("the paper's answers to single questions aren't published", got="--paper --pairs")
    if paper:
        output.show_paper(form, console())
        return
    show = output.show_pairs if pairs else output.show_scores
    show(output.read(folders("bench", records, OUT), line or [], n), form, console(), rule)
