"""What a recipe can say, strict, with every short form spelled out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from optmerge.errors import RecipeError

BASE = "base"
AUTO: Literal["auto"] = "auto"
"""A scale that is chosen from the deltas, or a method that is chosen by what the benchmark shows."""


def _known_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
    return pattern


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _located(value: Any) -> Any:
    return {"model": str(value)} if isinstance(value, str | Path) else value


def _formatted(value: Any) -> Any:
    return {"format": value} if isinstance(value, str) else value


def _of_tokens(value: Any) -> Any:
    return {"tokens": value} if isinstance(value, str) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _scale_or_auto(value: Any) -> Any:
    if value is None or value == AUTO:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise PydanticCustomError("scale", "a number or auto") from None
    if not math.isfinite(number):
        raise PydanticCustomError("finite_number", "a finite number")
    return number


def _positive(value: Any) -> float:
    number = _scale_or_auto(value)
    if not isinstance(number, float) or number <= 0:
        raise PydanticCustomError("greater_than", "a number greater than 0")
    return number


def _number_or_list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _positive(value)
    if len(value) < 2:
        raise PydanticCustomError("strength", "a list over depth of at least 2 numbers")
    return [_positive(each) for each in value]


Strength = Annotated[float | list[float], BeforeValidator(_number_or_list)]
"""Factor on the scale; a list over the depth of the model, from the first layer to the last."""

Scale = Annotated[float | Literal["auto"] | None, BeforeValidator(_scale_or_auto)]
"""Factor on the merged delta; `auto`: by the method's own rule, from the deltas; None for the default."""

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
        any_base: accept an adapter that says it was trained on another base, or a full checkpoint whose
            config computes something else with the same weights (heads, rope, activation).
    """

    model: str
    name: str | None = None
    weight: float = 1.0
    any_base: bool = False


class ModifierChoice(BaseModel):
    """A modifier of the method. Further keys are its own parameters, which are checked against it.

    Args:
        name: of the modifier.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The modifier's own parameters."""
        return dict(self.model_extra or {})


class MethodChoice(BaseModel):
    """A method and what it is given.

    Further keys are the method's own parameters, which are checked against the method itself.

    Args:
        name: of the method; `auto` for the default one. `tsv+svc` is `tsv` with the modifier `svc`.
        scale: factor on the merged delta; by default `auto` where the method has a rule, else the
            published one.
        strength: factor on the scale, whoever chose it. A list gives factors over the depth of the model,
            from the first layer to the last, with straight lines between; what isn't in a layer gets the
            first.
        modifiers: go around the method, each around what stands before it. Written `with` in a recipe.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str
    scale: Scale = None
    strength: Strength = 1.0
    modifiers: Annotated[
        list[Annotated[ModifierChoice, BeforeValidator(_named)]], BeforeValidator(_one_or_more)
    ] = Field(default=[], alias="with")

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own parameters: every key but `name`, `scale`, `strength` and `with`."""
        return dict(self.model_extra or {})


NamedMethod = Annotated[MethodChoice, BeforeValidator(_named)]


class Match(_Strict):
    """Tensors of these components and kinds whose name matches some `include` and no `exclude`.

    Args:
        components: names of components; None for any.
        kinds: names of kinds; None for any.
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
    """Tensors that are merged; every other tensor is copied from the base."""

    components: Names | None = ["language"]
    kinds: Names | None = ["matrix"]


class Rule(_Strict):
    """Another method, or a plain copy, for the selected tensors it matches; the first match wins.

    Args:
        match: tensors that the rule is for, those included that `select` leaves out.
        method: merge them with this.
        copy_from: take them from `base` or from the expert of this name.
    """

    match: Match
    method: NamedMethod | None = None
    copy_from: str | None = None

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if (self.method is None) == (self.copy_from is None):
            raise ValueError("a rule has either `method` or `copy_from`")
        return self


class SideFiles(_Strict):
    """Donor of the output's tokenizer, processor, chat template, generation config and code.

    Args:
        donor: `base`, the name of an expert, or a folder. Written `from` in a recipe.
    """

    donor: str = Field(default=BASE, alias="from")


class Output(_Strict):
    """What is written.

    Args:
        format: `dense`, a whole checkpoint; `adapter`, one PEFT adapter for the base; or `routed`, a whole
            checkpoint, a small PEFT adapter of it for every expert, and a router that chooses among these.
        rank: of the adapter; the exact rank by default. Smaller ranks are truncated and the error reported.
        shard_size: of a whole checkpoint, as in `5GB`; what save_pretrained takes by default.
        budget: of a routed output, weights of all experts' adapters and the router together, as a share of
            the model's weights; 0.2 by default.
        threshold: of a routed output, below which sureness of the router the merge alone answers.
    """

    format: Literal["dense", "adapter", "routed"] = "dense"
    rank: Annotated[int, Field(ge=1)] | None = None
    shard_size: str | int | None = None
    budget: Annotated[float, Field(gt=0, le=10)] | None = None
    threshold: Annotated[float, Field(ge=0)] | None = None


class Vocabulary(_Strict):
    """What becomes of tokens that not every model has.

    Args:
        tokens: `strict` refuses models in which an id stands for different tokens, and other numbers
            of rows.
            `base` keeps the base's tokens, drops the others and says so. `union` keeps everybody's. Under
            `base` and `union` rows are matched by their token.
        unknown: row at which the base starts for a token that it lacks. `owners` is the mean of the rows of
            the experts that have the token. `mean` is that of all of the base's own rows. `omp` is a
            combination of the base's rows, as orthogonal matching pursuit finds it among the expert's.
    """

    tokens: Literal["strict", "base", "union"] = "strict"
    unknown: Literal["owners", "mean", "omp"] = "owners"


class Recipe(_Strict):
    """Everything that decides the result of a merge; the types of the fields say more.

    Args:
        base: model that all experts were fine-tuned from: a folder, a .safetensors file, or a hub id.
        experts: at least one.
        method: method of all selected tensors that no rule speaks about; `auto` is the default one.
        select: tensors that are merged.
        rules: exceptions; the first rule that matches a tensor wins.
        ignore: regular expressions (re.search); experts' tensors of these names are disregarded, as if the
            expert held what the base does. So are files of these names that lie beside an adapter.
        dtype: of the output's floating-point tensors; `auto` keeps each tensor's own.
        side_files: donor of everything that isn't weights.
        output: form of the result.
        untie: write embedding and head as two tensors where the base's config ties them.
        vocabulary: what becomes of tokens that not every model has.
        allow_pickle: also read PyTorch pickles (with `weights_only`).
        allow_nonfinite: copy tensors that hold NaN or infinity as they are. Infinite constants of the base
            (tensors that are no matrix, embedding, head, norm or router) need no permission; what is merged
            is always finite.
    """

    base: str
    experts: Annotated[list[Annotated[Expert, BeforeValidator(_located)]], Field(min_length=1)]
    method: NamedMethod = MethodChoice(name=AUTO)
    select: Select = Select()
    rules: list[Rule] = []
    ignore: Patterns = []
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    side_files: Annotated[SideFiles, BeforeValidator(lambda v: {"from": v} if isinstance(v, str) else v)] = (
        SideFiles()
    )
    output: Annotated[Output, BeforeValidator(_formatted)] = Output()
    untie: bool = False
    vocabulary: Annotated[Vocabulary, BeforeValidator(_of_tokens)] = Vocabulary()
    allow_pickle: bool = False
    allow_nonfinite: bool = False

    def expert_names(self) -> list[str]:
        """A name for every expert, unique: its own, or the last part of its path, numbered where needed.

        Raises:
            RecipeError: two experts were given the same name.
        """
        given = [BASE, *(expert.name for expert in self.experts if expert.name)]
        names: list[str] = []
        for expert in self.experts:
            name = expert.name or _short_name(expert.model)
            if expert.name is None:
                name = next(each for each in _numbered(name) if each not in names and each not in given)
            if name in names or name == BASE:
                raise RecipeError(
                    f"two models are called {name!r}",
                    where="experts",
                    hint="give one of them another name: {model: PATH, name: NAME}",
                )
            names.append(name)
        return names

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data, short forms spelled out."""
        return self.model_dump(mode="json", by_alias=True)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _short_name(model: str) -> str:
    last = model.rstrip("/").rsplit("/", 1)[-1].partition("@")[0]
    return last.removesuffix(".safetensors") or "expert"
