"""`optmerge merge`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.options import AsJson, Base, Experts, MethodName, RecipeFile, Settings, build_recipe
from optmerge.errors import RecipeError

if TYPE_CHECKING:
    from optmerge.engine.merge import Result
    from optmerge.engine.output.folder import Mode


def command(
    recipe: RecipeFile = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.", metavar="DIR")] = None,
    base: Base = None,
    experts: Experts = None,
    method: MethodName = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of the whole process, such as 2GiB.", metavar="SIZE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted merge.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier merge.")] = False,
    content_hashes: Annotated[
        bool, typer.Option("--content-hashes", help="Record the SHA-256 of every input's bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge experts into one checkpoint, or one adapter.

    Example: `optmerge merge --base base --expert ocr --expert chart --out merged`
    """
    chosen = build_recipe(recipe, base, experts, method, settings)
    if out is None:
        raise RecipeError("no output folder", hint="add --out DIR")
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite exclude each other", hint="choose one")

    from optmerge.cli.progress import progress_bar
    from optmerge.engine.merge import Options, merge

    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    result = merge(
        chosen,
        out,
        Options(mode, device, memory, content_hashes),
        progress_bar(out if resume else None, quiet=quiet or as_json),
    )
    if as_json:
        print(json.dumps(summary(result), indent=1))
    elif not quiet:
        from optmerge.cli.console import print_result

        print_result(result)


def summary(result: Result) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "out": str(result.path),
        "counts": result.plan.counts(),
        "bytes_written": result.plan.cost.bytes_written,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
        "changes": [asdict(change) for change in result.plan.changes],
        "truncation": result.truncation,
        "resumed_tensors": result.resumed_tensors,
        "scales": list(result.scales),
        **({} if result.parts is None else {"routed": result.parts.plain()}),
    }
