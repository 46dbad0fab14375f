"""`optmerge analyze`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.options import AsJson, Base, Experts, MethodName, RecipeFile, Settings, build_recipe
from optmerge.errors import OutputError

if TYPE_CHECKING:
    from rich.table import Table

    from optmerge.analysis.analyze import Analysis
    from optmerge.analysis.totals import DeltaFigures

MOST_LAYERS = 16
"""Lines of the table of layers; neighbours share a line where there are more."""

MOST_EXPERTS, LONGEST_NAME = 5, 10
"""Experts, and letters of their names, that have a column each in the table of layers at 80 columns."""


def command(
    recipe: RecipeFile = None,
    base: Base = None,
    experts: Experts = None,
    method: MethodName = None,
    settings: Settings = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of the whole process, such as 2GiB.", metavar="SIZE")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write all figures to this JSON file.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure what the experts changed and what their merge does to each of them; no model is written.

    Lengths, ranks and spectra of the changes, cosines and signs between experts, the interference of the
    merge with each expert, what bfloat16 rounds away: per tensor, layer and component.

    Example: `optmerge analyze recipe.yaml --out merged/analysis.json`
    """
    chosen = build_recipe(recipe, base, experts, method, settings)
    if out is not None and out.exists():
        raise OutputError("the file is there already", where=out, hint="choose another --out")

    from optmerge.analysis.analyze import analyze
    from optmerge.checkpoints.output_files import disk_errors
    from optmerge.cli.progress import progress_bar

    found = analyze(chosen, memory=memory, watch=progress_bar(quiet=quiet or as_json))
    text = json.dumps(found.plain(), indent=1, allow_nan=False) if as_json or out is not None else ""
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text + "\n", "utf-8")
    if as_json:
        print(text)
    else:
        _print(found, out)


def _print(found: Analysis, out: Path | None) -> None:
    from optmerge.cli.console import MOST_WARNINGS, console, escape

    screen = console()
    total = found.total
    methods = sorted({use.label for use in found.plan.methods if use is not None})
    screen.print(
        f"[bold]{total.tensors} tensors[/] merged by {', '.join(methods)}, scale {_scales(total.scales)}\n"
    )
    screen.print(_experts(found))
    if found.layers():
        screen.print()
        screen.print("interference by layer, 0 as the expert, 1 as the base; and how far the merge moves it")
        screen.print(_layers(found))
    screen.print()
    for finding in found.findings:
        screen.print(f"• {escape(finding)}")
    for warning in found.plan.warnings[:MOST_WARNINGS]:
        screen.print(f"[yellow]warning[/]: {escape(warning)}")
    if out is not None:
        screen.print(f"all figures: {escape(out)}")


def _scales(scales: tuple[float, float]) -> str:
    low, high = (f"{each:.3g}" for each in scales)
    return low if low == high else f"{low} to {high}"


def _experts(found: Analysis) -> Table:
    """A line for each expert, and one for the merge."""
    from rich.table import Table

    from optmerge.cli.console import escape

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("expert", overflow="fold")
    for column in ("moved", "× median", "rank 8 holds", "stable rank", "cosine", "interference"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in found.total.experts.items():
        table.add_row(
            escape(name),
            _percent(each.delta.moved),
            _number(found.lengths[name]),
            _held(each.delta),
            _number(each.delta.stable_rank, 1),
            _number(each.cosine),
            _number(each.interference),
        )
    merged = found.total.merged
    table.add_row(
        "[bold]the merge[/]", _percent(merged.moved), "", _held(merged), _number(merged.stable_rank, 1)
    )
    return table


def _held(delta: DeltaFigures) -> str:
    """Share of a change that its 8 leading directions hold."""
    return "–" if delta.energy is None else _percent(delta.energy[8])


def _layers(found: Analysis) -> Table:
    """How far the merge moves each layer, and its interference with each expert there."""
    from rich.table import Table

    from optmerge.cli.console import escape

    names = found.plan.expert_names
    by_name = len(names) <= MOST_EXPERTS and max(map(len, names)) <= LONGEST_NAME
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layers", overflow="fold")
    columns = names if by_name else ("least interference", "most interference")
    for column in ("moved", *columns):
        table.add_column(escape(column), justify="right", no_wrap=True)
    for (component, first, last), each in found.layers(MOST_LAYERS).items():
        place = f"{component} {first}" if first == last else f"{component} {first} to {last}"
        felt = {name: expert.interference for name, expert in each.experts.items()}
        known = sorted((value, name) for name, value in felt.items() if value is not None)
        if by_name:
            cells = [_number(felt[name]) for name in names]
        else:
            ends = (known[0], known[-1]) if known else ()
            cells = [f"{value:.2f} {escape(name)}" for value, name in ends]
        table.add_row(escape(place), _percent(each.merged.moved), *cells)
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
