"""Recipes as YAML files: plain YAML only, paths looked up beside the file."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from optmerge.errors import RecipeError
from optmerge.recipe.parsing import EXAMPLE, parse_recipe
from optmerge.recipe.schema import Recipe

LIMIT_BYTES = 1 << 18
LONGEST_NUMBER = 100


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a YAML file; relative paths in it are looked up beside it first.

    Raises:
        RecipeError: the file can't be read, isn't YAML, or isn't a recipe.
    """
    path = Path(path)
    data = read_recipe_data(path)
    return parse_recipe(data, path)


def read_recipe_data(path: Path) -> dict[str, Any]:
    """The plain data of a recipe file, its relative paths resolved.

    Raises:
        RecipeError: the file can't be read or isn't a YAML mapping.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT_BYTES + 1)
        if len(raw) > LIMIT_BYTES:
            raise RecipeError(
                "the recipe is too large", where=path, expected=f"≤ {LIMIT_BYTES} bytes", hint=EXAMPLE
            )
        data = yaml.load(raw.decode("utf-8"), Loader=PlainLoader)
    except OSError as problem:
        raise RecipeError(
            "the recipe can't be read", where=path, got=problem.strerror, hint=_nearby(path)
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        got = yaml_problem(problem)
        hint = "indent with spaces, not tabs" if "'\\t'" in got else EXAMPLE
        raise RecipeError("the recipe isn't valid YAML", where=path, got=got, hint=hint) from None
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping", where=path, got=type(data).__name__, hint=EXAMPLE)
    return _beside(data, path.parent)


def yaml_problem(problem: Exception) -> str:
    """What a YAML library's exception says, on one line."""
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        mark = problem.problem_mark
        return f"{problem.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(problem)


def _nearby(path: Path) -> str:
    """Hint for a path that can't be read as a recipe."""
    if path.is_dir():
        return "give the path of a YAML recipe; a model goes after --base or --expert"
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_file() and each.name != path.name]
    except OSError:
        names = []
    close = get_close_matches(path.name, sorted(names), n=1)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return "give the path of a YAML recipe, or --base, --expert and --method instead"


class PlainLoader(yaml.SafeLoader):
    """Plain YAML: no tags, no aliases (so no alias bombs), no key twice, no endless numbers."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; an alias or a node with a tag is refused."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.YAMLError(f"aliases aren't allowed here: *{event.anchor}")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags aren't allowed here: {event.tag}")
        return super().compose_node(parent, index)

    def construct_number(self, node: Any) -> Any:
        """A number; `12:30` is text, as in YAML 1.2, not a number to the base 60."""
        text = self.construct_scalar(node)
        if len(text) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number of {len(text)} digits")
        if ":" in text:
            return text
        whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping; refused where a key isn't a string or occurs twice."""
        seen = set()
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} isn't a string")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _kind in ("int", "float"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", PlainLoader.construct_number)


def _beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Recipe data in which paths that exist beside the recipe are absolute; all else is as written."""
    found = dict(data)
    if "base" in found:
        found["base"] = _resolved(found["base"], folder)
    if isinstance(found.get("experts"), list):
        found["experts"] = [_at(expert, "model", folder) for expert in found["experts"]]
    if "side_files" in found:
        found["side_files"] = _at(found["side_files"], "from", folder, named=True)
    return found


def _at(value: Any, key: str, folder: Path, *, named: bool = False) -> Any:
    """A path, or a mapping with a path under a key, resolved; if `named`, a path has a slash."""
    if isinstance(value, dict):
        return {**value, key: _at(value[key], key, folder, named=named)} if key in value else value
    return value if named and "/" not in str(value) else _resolved(value, folder)


def _resolved(ref: Any, folder: Path) -> Any:
    try:
        beside = isinstance(ref, str) and not Path(ref).is_absolute() and (folder / ref).exists()
    except OSError:  # no name that a file can have
        return ref
    return str((folder / ref).resolve()) if beside else ref
