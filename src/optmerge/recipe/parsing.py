"""Plain data to a recipe, with pydantic's errors in this project's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from optmerge.errors import RecipeError, did_you_mean
from optmerge.recipe.schema import Expert, Match, Output, Recipe, Rule, Select, SideFiles

EXAMPLE = "start from: {base: PATH, experts: [PATH, PATH], method: optmerge}"


def parse_recipe(data: object, where: object = "recipe") -> Recipe:
    """A recipe from plain data.

    Raises:
        RecipeError: unknown key (with the closest known one), missing key, or a value of the wrong kind.
    """
    if isinstance(data, Recipe):
        return data
    if not isinstance(data, Mapping):
        raise RecipeError("a recipe is a mapping", where=where, got=type(data).__name__, hint=EXAMPLE)
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        raise _explained(error, where) from None


def _explained(error: ValidationError, where: object) -> RecipeError:
    """The first problem that pydantic found; an unknown key goes first, because it explains a missing key."""
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    path = list(first["loc"])
    key = ".".join(str(part) for part in path) or "the recipe"
    if first["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return RecipeError(
            f"unknown key {str(path[-1])!r}",
            where=f"{where}, {key}",
            expected=", ".join(known),
            hint=did_you_mean(str(path[-1]), known),
        )
    if first["type"] == "missing":
        hint = "as in: method: {name: ties, scale: 0.3}" if key == "method.name" else EXAMPLE
        return RecipeError(f"{key} is missing", where=where, hint=hint)
    got = repr(first.get("input"))[:200]
    return RecipeError(f"{key} can't be used", where=f"{where}, {key}", got=got, expected=_expected(first))


_KINDS = {
    "scale": "a number or auto",
    "list_type": "a list",
    "model_type": "a mapping, {key: value}",
    "dict_type": "a mapping, {key: value}",
    "string_type": "text",
    "string_unicode": "text",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def _expected(error: ErrorDetails) -> str:
    """What pydantic would have accepted."""
    if error["type"] == "too_short":
        return f"at least {error['ctx']['min_length']}"
    if error["type"] in _KINDS:
        return _KINDS[error["type"]]
    return error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _fields_at(path: Sequence[str | int]) -> list[str]:
    """Keys allowed at a place in the recipe."""
    model: type[BaseModel] = Recipe
    nested: dict[str, type[BaseModel]] = {
        "experts": Expert,
        "select": Select,
        "rules": Rule,
        "match": Match,
        "side_files": SideFiles,
        "output": Output,
    }
    for part in path:
        model = nested.get(str(part), model)
    return [field.alias or name for name, field in model.model_fields.items()]
