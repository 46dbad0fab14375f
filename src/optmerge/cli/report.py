"""`optmerge report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from optmerge.errors import InputError, OutputError

if TYPE_CHECKING:
    from optmerge.report.blocks import Report


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A merge's output, or a benchmark's records.")
    ],
    form: Annotated[
        Literal["html", "md", "json"], typer.Option("--format", help="A page, Markdown, or JSON.")
    ] = "html",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; by default DIR-report.html, or the terminal.", metavar="FILE"),
    ] = None,
    analysis: Annotated[
        Path | None,
        typer.Option(help="Analysis of the merge; by default DIR/analysis.json, if any.", metavar="FILE"),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe of the merge, to analyze it now.", metavar="RECIPE.yaml")
    ] = None,
) -> None:
    """Write what is known of a merge, or of a benchmark, on one page that needs no network.

    Of a merge: inputs, coverage, scales, warnings, recipe; with an analysis also how far it moves each layer
    and module, and its interference with each expert. Of a benchmark: scores with intervals, which
    differences are real, scores by scale.

    Example: `optmerge report merged --recipe recipe.yaml`
    """
    from optmerge.checkpoints.output_files import disk_errors
    from optmerge.report.blocks import html, markdown

    target = out or (
        folder.resolve().with_name(f"{folder.resolve().name}-report.html") if form == "html" else None
    )
    if target is not None:
        _check_free(target)
    plain, make = _opened(folder, _analysis(analysis, recipe))
    if form == "json":
        text = json.dumps(plain, indent=1)
    else:
        text = html(make()) if form == "html" else markdown(make())
    if target is None:
        print(text)
        return
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text if text.endswith("\n") else text + "\n", "utf-8")
    print(target)


def _opened(folder: Path, analysis: Mapping[str, Any] | None) -> tuple[dict[str, Any], Callable[[], Report]]:
    """The records as JSON-ready data, and what makes a report of them."""
    from optmerge.engine.output.folder import PROVENANCE
    from optmerge.report.merge_report import merge_report, read_merge

    if not (folder / PROVENANCE).is_file() and any(folder.rglob("trials.jsonl")):
        from optmerge.report.benchmark_report import benchmark_report, read_benchmark

        if analysis is not None:
            raise InputError("a benchmark has no analysis", where=folder, hint="leave --analysis out")
        scores = read_benchmark(folder)
        return scores.plain(), lambda: benchmark_report(scores)
    record = read_merge(folder, analysis)
    return record.plain(), lambda: merge_report(record)


def _check_free(target: Path) -> None:
    """Refuses a file that is there and is no page of ours."""
    from optmerge.report.blocks import GENERATOR

    if not target.exists():
        return
    if target.is_file():
        with target.open("rb") as file:
            if f'content="{GENERATOR}"'.encode() in file.read(1000):
                return
    raise OutputError(
        "the file is there already, and is no report of ours", where=target, hint="choose another --out"
    )


def _analysis(file: Path | None, recipe: Path | None) -> Mapping[str, Any] | None:
    """The analysis that is given, or made now; None to look in the merge's folder."""
    if file is not None and recipe is not None:
        raise InputError("an analysis and a recipe are given", hint="give --analysis or --recipe")
    if recipe is not None:
        from optmerge.analysis.analyze import analyze
        from optmerge.cli.progress import progress_bar
        from optmerge.recipe import load_recipe

        return analyze(load_recipe(recipe), watch=progress_bar(quiet=False)).plain()
    if file is not None:
        from optmerge.checkpoints.json_files import read_object

        return read_object(file, "analysis")
    return None
