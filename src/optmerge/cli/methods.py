"""`optmerge methods`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optmerge.cli.options import AsJson

if TYPE_CHECKING:
    from optmerge.methods import Method


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, in full.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the merging methods, or explain one.

    Example: `optmerge methods optmerge`
    """
    from optmerge.methods import get, registered

    chosen = [get(name)] if name else list(registered().values())
    if as_json:
        print(json.dumps([describe(method) for method in chosen], indent=1))
        return
    from optmerge.cli.console import print_method, print_methods

    if name:
        print_method(describe(chosen[0]))
    else:
        print_methods([describe(method) for method in chosen])


def describe(method: Method) -> dict[str, Any]:
    """A method as plain data: defaults, parameters, documentation."""
    defaults = method.resolve(method.validate({}), False)
    rule = method.auto(defaults)
    return {
        "name": method.name,
        "summary": method.summary,
        "scale": method.scale(defaults),
        "auto": rule,
        "default_scale": f"{method.scale(defaults):g}" if rule in (None, "own") else "auto",
        "fixed_scale": method.fixed_scale,
        "granularity": method.granularity,
        "experts": method.exactly,
        "parameters": {
            name: {"default": field.default, "type": str(field.annotation)}
            for name, field in method.parameters.model_fields.items()
        },
        "doc": inspect.getdoc(method.function) or "",
    }
