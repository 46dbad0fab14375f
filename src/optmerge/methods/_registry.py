"""The registry of merging methods.

A method is a pure function `(deltas, *, parameters…) -> delta` in a file of its own under `methods/`,
made known by the `@method` decorator. Its parameters, their types and defaults are read from its signature;
everything under `methods/` and every `optmerge.methods` entry point is found without a list to keep.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from optmerge.deltas import Delta
from optmerge.errors import MethodError, did_you_mean
from optmerge.methods._context import Context, Layout, Survey, SurveyScope
from optmerge.methods._fast.stored import Entrywise
from optmerge.methods._matrices import by_matrices

__all__ = ["Context", "Layout", "Method", "Survey", "get", "method", "registered"]

Granularity = Literal["element", "tensor", "matrix"]


class Workspace(Protocol):
    """Memory as a multiple of the tensor's own."""

    def __call__(self, experts: int, m: int, n: int, parameters: Mapping[str, Any]) -> float:
        """Tensor-sized float32 arrays."""


def _two(experts: int, m: int, n: int, parameters: Mapping[str, Any]) -> float:
    return 2.0


@dataclass(frozen=True)
class Method:
    """A registered method.

    Args:
        name: as in recipes.
        function: `(deltas, *, context?, **parameters) -> delta`, on one tensor or one matrix.
        granularity: `element` commutes with slicing; `tensor` needs the whole tensor, of any shape;
            `matrix` needs a whole matrix, and 1-D tensors get the mean delta instead.
        parameters: pydantic model of the keyword-only arguments.
        scale: default scale for given parameters.
        fixed_scale: the scale is part of the method and can't be set.
        normalise_weights: expert weights are divided by their mean.
        affine: the merged weights are the same function of the experts' weights as the merged delta is of
            their deltas, so that neither the base nor a subtraction is needed where experts are full.
        entrywise: what it does to each entry, by (number of experts, parameters); None where it does more.
        resolve: replaces `auto` values once it is known whether every expert is low-rank.
        survey: makes a `Survey` for (number of experts, parameters), or None where none is needed.
        survey_scope: whether that survey is of one tensor or of all the method's tensors.
        passes: how often that survey reads every tensor.
        exactly: the number of experts it takes; any where None.
        work: floating-point operations for an m×n matrix of N experts.
        workspace: peak number of tensor-sized float32 arrays, beside the N deltas, that the method holds for
            (experts, m, n, resolved parameters), LAPACK's own included (measured).
        keeps_factors: whether it merges low-rank deltas into a low-rank one, for given parameters.
        one_core: a whole tensor is solved on one core, several side by side. Not where published values hang
            on how LAPACK splits its work.
        takes_context: the function has a `context` argument.
    """

    name: str
    function: Callable[..., Delta]
    granularity: Granularity
    parameters: type[BaseModel]
    scale: Callable[[Mapping[str, Any]], float]
    fixed_scale: bool = False
    normalise_weights: bool = False
    affine: bool = False
    entrywise: Callable[[int, Mapping[str, Any]], Entrywise] | None = None
    resolve: Callable[[dict[str, Any], bool], dict[str, Any]] = lambda parameters, low_rank: parameters
    survey: Callable[[int, Mapping[str, Any]], Survey | None] = lambda experts, parameters: None
    survey_scope: Callable[[Mapping[str, Any]], SurveyScope] = lambda parameters: "model"
    passes: Callable[[Mapping[str, Any]], int] = lambda parameters: 0
    exactly: int | None = None
    work: Callable[[int, int, int], float] = lambda m, n, experts: 2.0 * m * n * experts
    workspace: Workspace = _two
    keeps_factors: Callable[[Mapping[str, Any]], bool] = lambda parameters: False
    one_core: bool = True
    takes_context: bool = False

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def validate(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with defaults filled in; raises `MethodError` on an unknown name or a bad value."""
        known = self.parameters.model_fields
        for key in parameters:
            if key not in known:
                raise MethodError(
                    f"{self.name} has no parameter {key!r}",
                    where=f"method {self.name}",
                    expected=", ".join(known) or "no parameters",
                    hint=did_you_mean(key, known) if known else f"remove {key!r}",
                )
        try:
            return self.parameters.model_validate(dict(parameters)).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise MethodError(
                f"parameter {key!r} of {self.name} is out of its domain",
                where=f"method {self.name}, parameter {key}",
                got=repr(first["input"]),
                expected=first["msg"],
                hint=f"see `optmerge methods {self.name}`",
            ) from None

    def check_experts(self, count: int) -> None:
        """Raises `MethodError` where the method can't take so many experts."""
        if self.exactly is not None and count != self.exactly:
            raise MethodError(
                f"{self.name} merges exactly {self.exactly} experts",
                where=f"method {self.name}",
                got=f"{count} expert{'s' if count != 1 else ''}",
                hint="choose another method, or change the experts",
            )

    def streams(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a tensor can be merged slice by slice, after the survey if there is one."""
        surveyed = self.granularity == "tensor" and self.passes(parameters) > 0
        return self.granularity == "element" or surveyed

    def weighted(self, deltas: Sequence[Delta], weights: Sequence[float]) -> list[Delta]:
        """Each delta times its expert's weight: weight a asks for a times that expert's change."""
        factors = self.expert_factors(weights)
        return [delta.scaled(factor) for delta, factor in zip(deltas, factors, strict=True)]

    def expert_factors(self, weights: Sequence[float]) -> list[float]:
        """What each expert's delta is multiplied by; raises `MethodError` where the weights can't be used."""
        if not all(math.isfinite(weight) for weight in weights):
            raise MethodError("a weight is no number", where=f"method {self.name}", got=list(weights))
        mean = math.fsum(weights) / len(weights) if self.normalise_weights else 1.0
        if abs(mean) <= 1e-12 * max(map(abs, weights)):
            raise MethodError(f"the weights of {self.name} sum to zero", got=list(weights), hint="change one")
        return [weight / mean for weight in weights]

    def apply(self, deltas: Sequence[Delta], parameters: Mapping[str, Any], context: Context) -> Delta:
        """Merged delta of one tensor before scale; the parameters must have been validated."""

        def merge(deltas: Sequence[Delta], context: Context) -> Delta:
            extra = {"context": context} if self.takes_context else {}
            return self.function(deltas, **parameters, **extra)

        return by_matrices(merge, deltas, context) if self.granularity == "matrix" else merge(deltas, context)


def method(
    *,
    granularity: Granularity,
    scale: float | Callable[[Mapping[str, Any]], float],
    **options: Any,
) -> Callable[[Callable[..., Delta]], Callable[..., Delta]]:
    """Registers a function as a merging method under its own name; see `Method` for the options."""

    def register(function: Callable[..., Delta]) -> Callable[..., Delta]:
        hints = get_type_hints(function, include_extras=True)
        keywords = {
            name: argument
            for name, argument in inspect.signature(function).parameters.items()
            if argument.kind is inspect.Parameter.KEYWORD_ONLY
        }
        fields: dict[str, Any] = {
            name: (hints[name], argument.default) for name, argument in keywords.items() if name != "context"
        }
        name = getattr(function, "__name__", "")
        _refuse_duplicate(name, function)
        _METHODS[name] = Method(
            name=name,
            function=function,
            granularity=granularity,
            parameters=create_model(
                name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields
            ),
            scale=scale if callable(scale) else lambda parameters: scale,
            takes_context="context" in keywords,
            **options,
        )
        return function

    return register


_METHODS: dict[str, Method] = {}


def _refuse_duplicate(name: str, function: Callable[..., Delta]) -> None:
    """A plug-in can't replace a method silently; a module may define its own again when it is reloaded."""
    known = _METHODS.get(name)
    if known and known.function.__module__ != function.__module__:
        raise MethodError(
            f"there already is a method {name!r}",
            where=f"module {function.__module__}",
            got=f"one from {known.function.__module__}",
            hint="rename one of them",
        )


@cache
def _load_all() -> None:
    package = import_module("optmerge.methods")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"optmerge.methods.{module.name}")
    for plugin in entry_points(group="optmerge.methods"):
        try:
            plugin.load()
        except ImportError as error:
            raise MethodError(
                f"the plug-in {plugin.name!r} can't be imported",
                where=f"entry point {plugin.value!r} of optmerge.methods",
                got=str(error),
                hint="reinstall or uninstall the package that declares it",
            ) from error


def registered() -> Mapping[str, Method]:
    """Every method by name, in alphabetical order."""
    _load_all()
    return dict(sorted(_METHODS.items()))


def get(name: str) -> Method:
    """The method of that name; raises `MethodError` with the closest known name otherwise."""
    methods = registered()
    if name not in methods:
        raise MethodError(f"unknown method {name!r}", where="method", hint=did_you_mean(name, methods))
    return methods[name]
