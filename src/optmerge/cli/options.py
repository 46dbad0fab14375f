"""Options that several commands share, and the recipe they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optmerge.errors import RecipeError
from optmerge.recipe import AUTO, Recipe, override, parse_recipe, read_recipe_data

RecipeFile = Annotated[Path | None, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")]
Base = Annotated[str | None, typer.Option(help="Base: folder, .safetensors file or hub id.", metavar="MODEL")]
Experts = Annotated[
    list[str] | None,
    typer.Option("--expert", help="Expert: checkpoint or adapter; repeat.", metavar="MODEL"),
]
MethodName = Annotated[
    str | None, typer.Option(help="Merging method, auto by default; see `optmerge methods`.", metavar="NAME")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe: `select.kinds=[matrix]`, or the method: `scale=0.5`, `scale=auto`; repeat.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def build_recipe(
    recipe: Path | None,
    base: str | None,
    experts: list[str] | None,
    method: str | None,
    settings: list[str] | None,
) -> Recipe:
    """The recipe that a file, options, or both ask for; options win."""
    data: dict[str, Any] = read_recipe_data(recipe) if recipe is not None else {}
    if recipe is None and not (base and experts):
        lacking = (
            "no expert" if base else "no base" if experts else "neither a recipe nor --base and --expert"
        )
        raise RecipeError(
            "nothing to merge",
            got=lacking,
            hint="optmerge merge RECIPE.yaml --out DIR, or "
            "optmerge merge --base B --expert E1 --expert E2 --out DIR",
        )
    if base:
        data["base"] = base
    if experts:
        data["experts"] = list(experts)
    if method:
        data["method"] = method
    data.setdefault("method", AUTO)
    return parse_recipe(override(data, settings or []), recipe or "the command line")
