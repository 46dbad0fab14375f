"""`optmerge plan`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from optmerge.cli.options import AsJson, Base, Experts, MethodName, RecipeFile, Settings, build_recipe


def command(
    recipe: RecipeFile = None,
    base: Base = None,
    experts: Experts = None,
    method: MethodName = None,
    settings: Settings = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="One line per tensor, layers not folded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a merge would do to every tensor, what it would cost, and how far each expert moved.

    Headers are read, and a few KiB of each tensor: that sample says how far.

    Example: `optmerge plan recipe.yaml`
    """
    chosen = build_recipe(recipe, base, experts, method, settings)

    from optmerge.engine.merge import plan

    decided = plan(chosen)
    if as_json:
        print(json.dumps(decided.plain(), indent=1))
    else:
        from optmerge.cli.console import print_plan

        print_plan(decided, every_tensor=tensors)
