"""`optmerge omni compose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from optmerge.cli.omni._options import check_installed
from optmerge.cli.options import AsJson, Settings
from optmerge.errors import RecipeError
from optmerge.recipe import AUTO, override, parse_recipe


def command(
    base: Annotated[
        str, typer.Option(help="The language model all experts were built around.", metavar="MODEL")
    ],
    experts: Annotated[
        list[str],
        typer.Option("--expert", help="Omni checkpoint, or PEFT adapter of one; repeat.", metavar="MODEL"),
    ],
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")],
    method: Annotated[
        str,
        typer.Option(help="Any of `optmerge methods`, auto by default, or naivemc, or damc.", metavar="NAME"),
    ] = AUTO,
    tower: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose tower is kept where several experts have one; repeat.", metavar="MODALITY=EXPERT"
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Write this class of transformers, if the parts fit: llava or qwen2_audio.",
            metavar="NAME",
        ),
    ] = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of the whole process, such as 2GiB.", metavar="SIZE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted composition.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier one.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compose experts of different modalities into one model.

    Example: `optmerge omni compose --base llm --expert seeing --expert hearing --out omni`
    """
    check_installed()
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite exclude each other", hint="choose one")
    data: dict[str, Any] = {"base": base, "experts": list(experts), "method": method}
    recipe = parse_recipe(override(data, settings or []), "the command line")

    from optmerge.cli.progress import progress_bar
    from optmerge.engine.merge import Options
    from optmerge.engine.output.folder import Mode
    from optmerge.omni.compose import compose

    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    watch = progress_bar(out if resume else None, quiet=quiet or as_json)
    options = Options(mode, device, memory)
    done = compose(recipe, out, towers=_pairs(tower or []), form=form, options=options, watch=watch)
    if as_json:
        from optmerge.cli.merge import summary

        found = summary(done.result) if done.result else {}
        adapter = str(done.adapter) if done.adapter else None
        print(json.dumps({**found, "out": str(done.path), "adapter": adapter}, indent=1))
    elif not quiet and done.result:
        from optmerge.cli.console import print_result

        print_result(done.result)
    elif not quiet:
        print(f"wrote {done.path}")


def _pairs(settings: list[str]) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings]
    for modality, equals, name in pairs:
        if not (modality and equals and name):
            raise RecipeError(
                "can't be understood", where="--tower", got=modality, expected="MODALITY=EXPERT"
            )
    return {modality: name for modality, _, name in pairs}
