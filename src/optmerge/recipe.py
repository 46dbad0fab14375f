"""What the user asks for: a recipe, strict, with every short form spelled out.

A recipe says nothing about files being there or fitting together; that is the plan's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from optmerge.errors import RecipeError, did_you_mean

RECIPE_LIMIT_BYTES = 1 << 20
BASE = "base"


def _known_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
    return pattern


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _located(value: Any) -> Any:
    return {"model": str(value)} if isinstance(value, str | Path) else value


def _formatted(value: Any) -> Any:
    return {"format": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[Annotated[str, AfterValidator(_known_pattern)]], BeforeValidator(_listed)]
Names = Annotated[list[str], BeforeValidator(_listed)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Expert(_Strict):
    """One expert: a full checkpoint or a PEFT adapter, recognised by content.

    Args:
        model: a folder, a .safetensors file, or a hub id `org/name[@revision]`.
        name: what to call it; the last part of `model` by default. Seeds DARE's masks.
        weight: factor on its task vector.
        any_base: accept an adapter that says it was trained on another base.
    """

    model: str
    name: str | None = None
    weight: float = 1.0
    any_base: bool = False


class MethodChoice(BaseModel):
    """A method by name, its scale, and its own parameters, which are checked against the method itself."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str
    scale: float | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but name and scale."""
        return dict(self.model_extra or {})


Method = Annotated[MethodChoice, BeforeValidator(_named)]


class Match(_Strict):
    """Tensors of these components and kinds whose name matches some `include` and no `exclude`.

    Args:
        components: any, when left out.
        kinds: any, when left out.
        include: regular expressions (re.search on the name); none means all.
        exclude: regular expressions (re.search on the name).
    """

    components: Names | None = None
    kinds: Names | None = None
    include: Patterns = []
    exclude: Patterns = []

    def accepts_name(self, name: str) -> bool:
        """Whether the patterns let a name through."""
        included = not self.include or any(re.search(pattern, name) for pattern in self.include)
        return included and not any(re.search(pattern, name) for pattern in self.exclude)


class Select(Match):
    """Which tensors are merged; every other one is copied from the base."""

    components: Names | None = ["language"]
    kinds: Names | None = ["matrix"]


class Rule(_Strict):
    """Another method, or a plain copy, for the selected tensors it matches; the first match wins.

    Args:
        match: which tensors. A rule also reaches tensors that `select` leaves out.
        method: merge them with this.
        copy_from: take them from `base` or from the expert of this name.
    """

    match: Match
    method: Method | None = None
    copy_from: str | None = None

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if (self.method is None) == (self.copy_from is None):
            raise ValueError("a rule has either `method` or `copy_from`")
        return self


class SideFiles(_Strict):
    """Whose tokenizer, processor, chat template, generation config and code the output gets.

    Args:
        donor: `base`, the name of an expert, or a folder. Written `from` in a recipe.
    """

    donor: str = Field(default=BASE, alias="from")


class Output(_Strict):
    """What is written.

    Args:
        format: `dense`, a whole checkpoint; or `adapter`, one PEFT adapter for the base.
        rank: of the adapter; the exact rank by default. Smaller ranks are truncated and the error reported.
        shard_size: of a dense checkpoint, as in `5GB`; what save_pretrained takes by default.
    """

    format: Literal["dense", "adapter"] = "dense"
    rank: Annotated[int, Field(ge=1)] | None = None
    shard_size: str | int | None = None


class Recipe(_Strict):
    """Everything that decides what a merge gives; see the fields' own types.

    Args:
        base: what all experts were fine-tuned from.
        experts: at least one.
        method: how to merge.
        select: which tensors are merged.
        rules: exceptions.
        ignore: regular expressions (re.search); experts' tensors of these names are disregarded, as if the
            expert held what the base does.
        dtype: of the output's floating-point tensors; `auto` keeps each tensor's own.
        side_files: donor of everything that isn't weights.
        output: form of the result.
        allow_pickle: also read PyTorch pickles (with `weights_only`).
    """

    base: str
    experts: Annotated[list[Annotated[Expert, BeforeValidator(_located)]], Field(min_length=1)]
    method: Method
    select: Select = Select()
    rules: list[Rule] = []
    ignore: Patterns = []
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    side_files: Annotated[SideFiles, BeforeValidator(lambda v: {"from": v} if isinstance(v, str) else v)] = (
        SideFiles()
    )
    output: Annotated[Output, BeforeValidator(_formatted)] = Output()
    allow_pickle: bool = False

    def expert_names(self) -> list[str]:
        """A name for every expert, unique: its own, or the last part of its path, numbered where needed.

        Raises:
            RecipeError: two experts were given the same name.
        """
        given = [expert.name for expert in self.experts if expert.name]
        names: list[str] = []
        for expert in self.experts:
            name = expert.name or _short_name(expert.model)
            if expert.name is None:
                name = next(each for each in _numbered(name) if each not in names and each not in given)
            if name in names or name == BASE:
                raise RecipeError(f"two models are called {name!r}", where="experts", hint="rename one")
            names.append(name)
        return names

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data, short forms spelled out."""
        return self.model_dump(mode="json", by_alias=True)


def parse_recipe(data: object, where: object = "recipe") -> Recipe:
    """A recipe from plain data.

    Raises:
        RecipeError: unknown key (with the closest known one), missing key, or a value of the wrong kind.
    """
    if isinstance(data, Recipe):
        return data
    if not isinstance(data, Mapping):
        raise RecipeError("a recipe is a mapping", where=where, got=type(data).__name__, hint=_EXAMPLE)
    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        raise _explained(error, where) from None


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
            raw = file.read(RECIPE_LIMIT_BYTES + 1)
        if len(raw) > RECIPE_LIMIT_BYTES:
            raise RecipeError("the recipe is too large", where=path, expected=f"≤ {RECIPE_LIMIT_BYTES} bytes")
        data = yaml.load(raw.decode("utf-8"), Loader=_RecipeLoader)
    except OSError as problem:
        hint = "give the path of a YAML recipe, or --base, --expert and --method instead"
        raise RecipeError("the recipe can't be read", where=path, got=problem.strerror, hint=hint) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise RecipeError("the recipe isn't valid YAML", where=path, got=problem, hint=_EXAMPLE) from None
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping", where=path, got=type(data).__name__, hint=_EXAMPLE)
    return _beside(data, path.parent)


_EXAMPLE = "start from: {base: PATH, experts: [PATH, PATH], method: optmerge}"


class _RecipeLoader(yaml.SafeLoader):
    """Plain YAML: no tags, no anchors (so no alias bombs), no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) aren't allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} isn't a string")
            if key in keys[:index]:
                raise yaml.YAMLError(f"the key {key!r} occurs twice")
        return super().construct_mapping(node, deep)


def _beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths that exist beside the recipe, made absolute; everything else as written."""

    def resolved(ref: Any) -> Any:
        if isinstance(ref, str) and not Path(ref).is_absolute() and (folder / ref).exists():
            return str((folder / ref).resolve())
        return ref

    def expert(value: Any) -> Any:
        if isinstance(value, dict) and "model" in value:
            return {**value, "model": resolved(value["model"])}
        return resolved(value)

    found = dict(data)
    if "base" in found:
        found["base"] = resolved(found["base"])
    if isinstance(found.get("experts"), list):
        found["experts"] = [expert(value) for value in found["experts"]]
    return found


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Recipe data with `key=value` assignments applied.

    A key is a dotted path into the recipe (`select.kinds`, `experts.0.weight`); anything that isn't a key of
    the recipe is a parameter of its method (`scale`, `keep`). Values are YAML.

    Raises:
        RecipeError: an assignment has no `=`, or its value isn't YAML.
    """
    changed = _copied(data)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise RecipeError("--set takes key=value", where="--set", got=assignment, hint="--set scale=0.5")
        try:
            value = yaml.load(text, Loader=_RecipeLoader)
        except yaml.YAMLError as problem:
            raise RecipeError("the value isn't valid YAML", where=f"--set {key}", got=problem) from None
        parts = key.split(".")
        if parts[0] not in Recipe.model_fields:
            parts = ["method", *parts]
        if isinstance(changed.get("method"), str):
            changed["method"] = (
                {"name": changed["method"]} if parts[0] == "method" and parts[1:] else changed["method"]
            )
        _assign(changed, parts, value, key)
    return changed


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _assign(data: Any, parts: list[str], value: Any, key: str) -> None:
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            if last:
                data[int(part)] = value
                return
            if isinstance(data[int(part)], str):
                data[int(part)] = {"model": data[int(part)]}
            data = data[int(part)]
        elif isinstance(data, dict):
            if last:
                data[part] = value
                return
            data = data.setdefault(part, {})
        else:
            raise RecipeError("--set leads nowhere in the recipe", where=f"--set {key}", got=part)


def _numbered(name: str) -> Any:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _short_name(model: str) -> str:
    last = model.rstrip("/").rsplit("/", 1)[-1].partition("@")[0]
    return last.removesuffix(".safetensors") or "expert"


def _explained(error: ValidationError, where: object) -> RecipeError:
    """The first problem pydantic found, in our words."""
    first = error.errors()[0]
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
        return RecipeError(f"{key} is missing", where=where, hint=_EXAMPLE)
    got = first.get("input")
    return RecipeError(
        f"{key} can't be used", where=f"{where}, {key}", got=repr(got)[:200], expected=first["msg"]
    )


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
