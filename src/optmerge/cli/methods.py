"""`optmerge methods`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optmerge.cli.options import AsJson

if TYPE_CHECKING:
    from optmerge.methods import Method
    from optmerge.methods._modifier import Modifier


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One method or modifier, in full.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the merging methods and what goes around them, or explain one.

    Example: `optmerge methods optmerge`
    """
    from optmerge.methods import MODIFIERS, get, registered

    if name is not None and name in MODIFIERS.all():
        chosen = [describe_modifier(MODIFIERS.get(name))]
    else:
        chosen = [describe(method) for method in ([get(name)] if name else registered().values())]
    if as_json:
        print(json.dumps(chosen, indent=1))
        return
    from optmerge.cli.console import print_method, print_methods, print_modifiers

    if name:
        print_method(chosen[0])
    else:
        print_methods(chosen)
        print_modifiers([describe_modifier(each) for each in MODIFIERS.all().values()])


def describe_modifier(modifier: Modifier) -> dict[str, Any]:
    """A modifier as plain data: parameters, documentation."""
    return {
        "name": modifier.name,
        "summary": modifier.summary,
        "auto": modifier.auto,
        "parameters": _parameters(modifier),
        "doc": inspect.getdoc(modifier.function) or "",
    }


def _parameters(described: Method | Modifier) -> dict[str, Any]:
    return {
        name: {"default": field.default, "type": str(field.annotation)}
        for name, field in described.parameters.model_fields.items()
    }


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
        "parameters": _parameters(method),
        "doc": inspect.getdoc(method.function) or "",
    }
