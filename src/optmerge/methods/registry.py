"""The registry of merging methods, and the one way to call any of them.

A method is a pure function `(deltas, *, parameters…) -> delta` in a file of its own under `methods/`,
made known by the `@method` decorator. Its parameters, their types and defaults are read from its signature;
everything under `methods/` and every `optmerge.methods` entry point is found without a list to keep.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, as_deltas, linear_combination
from optmerge.errors import MethodError, did_you_mean

Granularity = Literal["element", "tensor", "matrix"]
Layout = Literal["matrix", "transposed", "stack", "transposed_stack", "flatten", "vector"]


@dataclass(frozen=True)
class Context:
    """What a method may know beyond its deltas.

    Args:
        tensor: name of the tensor; seeds random masks.
        experts: names of the experts, in the order of the deltas; seeds random masks.
        start: flat index, in the whole tensor, of the first element of the slice at hand.
        layout: how a tensor holds its matrices: `matrix` (out, in), `transposed` (in, out), `stack`
            (E, out, in), `transposed_stack` (E, in, out), `flatten` (out, …) as for convolutions, `vector`
            for no matrix at all.
            None decides by the number of dimensions: 2 is a matrix, 3 a stack, more is flattened.
        survey: what the method's own survey of all tensors found; None without one.
    """

    tensor: str = ""
    experts: tuple[str, ...] = ()
    start: int = 0
    layout: Layout | None = None
    survey: Any = None

    def expert(self, index: int) -> str:
        """Name of an expert; its position where it has none."""
        return self.experts[index] if self.experts else str(index)


class Survey(Protocol):
    """What a method must learn from all its tensors before it can merge the first."""

    def begin_pass(self) -> bool:
        """True when one more pass over all tensors is needed."""

    def observe(self, deltas: Sequence[Delta], context: Context) -> None:
        """Takes note of one tensor, or one slice of it."""

    def end_pass(self) -> None:
        """Called after the last tensor of a pass."""

    def result(self) -> Any:
        """What `Context.survey` will hold."""


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
        resolve: replaces `auto` values once it is known whether every expert is low-rank.
        survey: makes a `Survey` for (number of experts, parameters), or None where none is needed.
        passes: how often that survey reads every tensor.
        exactly: the number of experts it takes; any where None.
        work: floating-point operations for an m×n matrix of N experts.
        workspace: peak number of tensor-sized float32 arrays, beside the N deltas, that the method holds.
    """

    name: str
    function: Callable[..., Delta]
    granularity: Granularity
    parameters: type[BaseModel]
    scale: Callable[[Mapping[str, Any]], float]
    fixed_scale: bool = False
    normalise_weights: bool = False
    affine: bool = False
    resolve: Callable[[dict[str, Any], bool], dict[str, Any]] = lambda parameters, low_rank: parameters
    survey: Callable[[int, Mapping[str, Any]], Survey | None] = lambda experts, parameters: None
    passes: Callable[[Mapping[str, Any]], int] = lambda parameters: 0
    exactly: int | None = None
    work: Callable[[int, int, int], float] = lambda m, n, experts: 2.0 * m * n * experts
    workspace: Callable[[int], float] = lambda experts: 2.0
    takes_context: bool = field(default=False, compare=False)

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

    def weighted(self, deltas: Sequence[Delta], weights: Sequence[float]) -> list[Delta]:
        """Each delta times its expert's weight: weight a asks for a times that expert's change."""
        mean = sum(weights) / len(weights) if self.normalise_weights else 1.0
        if mean == 0:
            raise MethodError(f"the weights of {self.name} sum to zero", got=list(weights), hint="change one")
        return [delta.scaled(weight / mean) for delta, weight in zip(deltas, weights, strict=True)]

    def apply(self, deltas: Sequence[Delta], parameters: Mapping[str, Any], context: Context) -> Delta:
        """Merged delta of one tensor before scale; the parameters must have been validated."""
        if self.granularity != "matrix":
            return self._call(deltas, parameters, context)
        return _by_matrices(self, deltas, parameters, context)

    def _call(self, deltas: Sequence[Delta], parameters: Mapping[str, Any], context: Context) -> Delta:
        extra = {"context": context} if self.takes_context else {}
        return self.function(deltas, **parameters, **extra)


def _by_matrices(
    method: Method, deltas: Sequence[Delta], parameters: Mapping[str, Any], context: Context
) -> Delta:
    """Applies a matrix method to whatever matrices the tensor holds; the mean delta where it holds none."""
    shape = deltas[0].shape
    if len(shape) < 2 or context.layout == "vector":
        return linear_combination(deltas, [1 / len(deltas)] * len(deltas))
    layout = context.layout or {2: "matrix", 3: "stack"}.get(len(shape), "flatten")
    inner = replace(context, layout="matrix")
    if layout == "matrix":
        return method._call(deltas, parameters, inner)
    if layout == "transposed":
        flipped = [_transposed(delta) for delta in deltas]
        return _transposed(method._call(flipped, parameters, inner))
    if layout == "flatten":
        merged = method._call([_flattened(delta) for delta in deltas], parameters, inner)
        return replace(merged, full_shape=shape) if isinstance(merged, LowRank) else _reshaped(merged, shape)
    each = replace(context, layout="transposed" if layout == "transposed_stack" else "matrix")
    stacks = [delta.dense() for delta in deltas]
    slices = [
        _by_matrices(method, [Dense(stack[index]) for stack in stacks], parameters, each).dense()
        for index in range(shape[0])
    ]
    return Dense(torch.stack(slices))


def _transposed(delta: Delta) -> Delta:
    if isinstance(delta, LowRank):
        return LowRank(delta.down.T, delta.up.T)
    return Dense(delta.values.T.contiguous())


def _flattened(delta: Delta) -> Delta:
    if isinstance(delta, LowRank):
        return replace(delta, full_shape=None)
    return Dense(delta.values.flatten(start_dim=1))


def _reshaped(delta: Dense, shape: tuple[int, ...]) -> Dense:
    return Dense(delta.values.reshape(shape))


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


@cache
def _load_all() -> None:
    package = import_module("optmerge.methods")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"optmerge.methods.{module.name}")
    for plugin in entry_points(group="optmerge.methods"):
        plugin.load()


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


def merge_deltas(
    name: str,
    deltas: Tensor | Sequence[Tensor | Delta],
    *,
    weights: Sequence[float] | None = None,
    context: Context | None = None,
    **parameters: Any,
) -> Any:
    """Merges the task vectors of one tensor.

    Args:
        name: a method's name, as in `optmerge methods`.
        deltas: an (N, …) float tensor, or N tensors or `Delta`s of one shape; not modified.
        weights: one factor per expert, by which its delta is multiplied beforehand (`average` divides by
            their mean, so that it stays an average); all 1 by default.
        context: names that seed random masks, and the layout of stacked or transposed matrices.
        **parameters: the method's own.

    Returns:
        The merged delta M, before scale: a tensor where the deltas were tensors, a `Delta` otherwise.

    Raises:
        MethodError: unknown method or parameter, no deltas, or deltas that don't fit together.
    """
    chosen = get(name)
    items = as_deltas(deltas)
    _check_deltas(items)
    chosen.check_experts(len(items))
    values = chosen.validate(parameters)
    values = chosen.resolve(values, all(isinstance(delta, LowRank) for delta in items))
    if weights is not None:
        if len(weights) != len(items):
            raise MethodError("one weight per expert is needed", got=len(weights), expected=len(items))
        items = chosen.weighted(items, weights)
    context = context or Context()
    survey = chosen.survey(len(items), values)
    if survey is not None:
        while survey.begin_pass():
            survey.observe(items, context)
            survey.end_pass()
        context = replace(context, survey=survey.result())
    merged = chosen.apply(items, values, context)
    given_as_tensors = isinstance(deltas, Tensor) or all(isinstance(delta, Tensor) for delta in deltas)
    return merged.dense() if given_as_tensors else merged


def _check_deltas(deltas: Sequence[Delta]) -> None:
    if not deltas:
        raise MethodError("no deltas to merge", expected="one delta per expert, at least one")
    for index, delta in enumerate(deltas):
        if delta.shape != deltas[0].shape:
            raise MethodError(
                "the deltas have different shapes",
                where=f"delta {index}",
                got=delta.shape,
                expected=deltas[0].shape,
            )
        parts = (delta.up, delta.down) if isinstance(delta, LowRank) else (delta.values,)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise MethodError("a delta holds NaN or infinity", where=f"delta {index}", expected="finite")
