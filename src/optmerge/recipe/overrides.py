"""Changes to a recipe from the command line: `--set key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from optmerge.errors import RecipeError
from optmerge.recipe.files import PlainLoader, yaml_problem
from optmerge.recipe.schema import Recipe

_LONG_FORMS = {"method": "name", "experts": "model", "output": "format", "side_files": "from"}
"""Key of the recipe → the key that its short form, a plain string, stands for."""


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Recipe data with `key=value` assignments applied.

    A key is a dotted path into the recipe (`select.kinds`, `experts.0.weight`); anything that isn't a key of
    the recipe is a parameter of its method (`scale`, `keep`). Values are YAML.

    Raises:
        RecipeError: an assignment has no `=`, its value isn't YAML, or its key leads nowhere.
    """
    changed: dict[str, Any] = _copied(data)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise RecipeError("--set takes key=value", where="--set", got=assignment, hint="--set scale=0.5")
        parts = key.split(".")
        if parts[0] not in Recipe.model_fields:
            parts = ["method", *parts]
        holder = _holder(changed, parts, key)
        holder[_index(holder, parts[-1], key)] = _value(text, key)
    return changed


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _value(text: str, key: str) -> Any:
    try:
        return yaml.load(text, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise RecipeError(
            "the value isn't valid YAML",
            where=f"--set {key}",
            got=yaml_problem(problem),
            hint="quote it for the shell and for YAML, as in: --set \"ignore=['^head']\"",
        ) from None


def _holder(data: dict[str, Any], parts: Sequence[str], key: str) -> Any:
    """The mapping or list that holds the last part of a key; mappings on the way are made where missing."""
    holder: Any = data
    long_form = None
    for part in parts[:-1]:
        long_form = _LONG_FORMS.get(part, long_form if part.isdecimal() else None)
        at = _index(holder, part, key)
        found = holder[at] if isinstance(holder, list) else holder.get(at, {})
        if isinstance(found, str) and long_form:
            found = {long_form: found}
        holder[at] = found
        holder = found
    return holder


def _index(holder: Any, part: str, key: str) -> Any:
    """What to index a mapping or a list with."""
    if isinstance(holder, dict):
        return part
    if isinstance(holder, list) and part.isdecimal() and int(part) < len(holder):
        return int(part)
    expected = f"an index below {len(holder)}" if isinstance(holder, list) else "a key of the recipe"
    raise RecipeError(
        "--set leads nowhere in the recipe",
        where=f"--set {key}",
        got=part,
        expected=expected,
        hint="write a key of the recipe with dots between its parts, as in: --set select.kinds=[matrix]",
    )
