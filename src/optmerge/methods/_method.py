"""What a merging method is: its function, what it says about itself, what it costs, how it streams.

A method is a pure function `(deltas, *, parameters…) -> delta`. Everything else that the engine knows of it
is in three small parts: `Method` (what it is), `Resources` (what it costs), `Streaming` (how it is applied
slice by slice). A callable of a part takes `parameters` where they decide everything, and a `Case` where
sizes matter too. Both hold resolved parameters: no `auto` is left in them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from optmerge.deltas import Delta
from optmerge.errors import MethodError, did_you_mean
from optmerge.methods._context import Survey, SurveyScope
from optmerge.methods._fast.stored import CompiledMerge
from optmerge.methods._scales import AutoRule
from optmerge.methods._solvers.linalg import squareness

Granularity = Literal["element", "tensor", "matrix"]

Parameters = Mapping[str, Any]
"""Values of a method's keyword-only arguments, by name."""


@dataclass(frozen=True)
class Case:
    """One merge of a matrix, as the engine asks a method about it before the merge.

    Args:
        experts: N, the number of deltas.
        m: rows of the matrix.
        n: columns of the matrix.
        parameters: resolved.
    """

    experts: int
    m: int
    n: int
    parameters: Parameters


def _one_pass(case: Case) -> float:
    return 2.0 * case.m * case.n * case.experts


def _plenty(case: Case) -> float:
    return 2.0 * case.experts + 8.0 + 10.0 * squareness(case.m, case.n)


@dataclass(frozen=True)
class Resources:
    """What merging one matrix costs. The planner asks, before any weight is read.

    Args:
        work: floating-point operations; by default those of a sum.
        workspace: peak number of m×n float32 arrays that the method holds beside the N deltas, its result and
            LAPACK's workspace included. `python -m perf.workspace NAME` measures it. The default is enough
            for a simple method: two copies of every delta, eight temporaries, and the singular value
            decomposition of one matrix. A method that needs less should say so, since `--memory` is refused
            by what is declared.
        one_core: whole tensors are merged on one core each, several side by side. False where published
            values depend on how LAPACK splits its work.
        keeps_factors: parameters → whether low-rank deltas of a matrix merge into a low-rank one, so that
            nothing of the matrix's own size is held.
        tolerance: relative error up to which a dense matrix may be solved approximately, which the plan says;
            0 where it is solved exactly.
    """

    work: Callable[[Case], float] = _one_pass
    workspace: Callable[[Case], float] = _plenty
    one_core: bool = True
    keeps_factors: Callable[[Parameters], bool] = lambda parameters: False
    tolerance: Callable[[Case], float] = lambda case: 0.0


@dataclass(frozen=True)
class Streaming:
    """How a method merges a tensor slice by slice, for given parameters.

    Args:
        survey: number of experts → a fresh `Survey`, called once a tensor or once a merge as `scope` says;
            None where a slice can be merged without a look at the others.
        scope: what the survey must have seen before a slice can be merged: its `tensor`, or every tensor of
            the `model` that the method merges.
        passes: how often the survey reads every slice; the planner counts the bytes.
        compiled: the same merge in compiled loops on slices as they are stored, the same bits; None where
            there is only the function.
    """

    survey: Callable[[int], Survey] | None = None
    scope: SurveyScope = "tensor"
    passes: int = 0
    compiled: CompiledMerge | None = None


def as_given(parameters: dict[str, Any], low_rank: bool) -> dict[str, Any]:
    """The `resolve` of a method whose parameters are never `auto`."""
    return parameters


@dataclass(frozen=True)
class Described:
    """A function with a name, a docstring and parameters: a method, or a modifier of methods.

    Args:
        function: what is called.
    """

    function: Callable[..., Any]
    _what: ClassVar[str] = "method"

    @property
    def name(self) -> str:
        """Name of the function, by which recipes call it."""
        return getattr(self.function, "__name__", "")

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """Pydantic model of the keyword-only arguments, `context` left out."""
        hints = get_type_hints(self.function, include_extras=True)
        fields: dict[str, Any] = {
            name: (hints[name], argument.default)
            for name, argument in self._keywords.items()
            if name != "context"
        }
        return create_model(self.name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)

    @property
    def takes_context(self) -> bool:
        """Whether the function has a `context` argument."""
        return "context" in self._keywords

    @cached_property
    def _keywords(self) -> dict[str, inspect.Parameter]:
        arguments = inspect.signature(self.function).parameters
        return {name: each for name, each in arguments.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}

    def validate(self, parameters: Parameters) -> dict[str, Any]:
        """The parameters with defaults filled in; raises `MethodError` on an unknown name or a bad value."""
        known = self.parameters.model_fields
        for key in parameters:
            if key not in known:
                raise MethodError(
                    f"{self.name} has no parameter {key!r}",
                    where=f"{self._what} {self.name}",
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
                where=f"{self._what} {self.name}, parameter {key}",
                got=repr(first["input"]),
                expected=first["msg"],
                hint=f"see `optmerge methods {self.name}`",
            ) from None


@dataclass(frozen=True)
class Method(Described):
    """A registered method. Name, summary and parameters are read from its function.

    Args:
        function: `(deltas, *, context?, **parameters) → delta`, on one tensor or one matrix. It may return a
            plain tensor for a dense delta.
        granularity: what the function may be given. `element`: any slice of a tensor, since it commutes with
            slicing. `tensor`: a whole tensor of any shape, or slices after its survey. `matrix`: a whole
            matrix; stacks, convolutions and transposed matrices are taken apart for it, and 1-D tensors get
            the mean delta instead.
        scale: resolved parameters → the scale published with the method: the default where `auto` is None,
            and what the benchmark compares scales with.
        auto: resolved parameters → the rule by which its scale is chosen from the deltas; the default where
            the recipe gives no scale. None where no rule is known.
        published: parameters that differ from the defaults in what was published; `scale` is theirs.
        resolve: (validated parameters, whether every expert is low-rank) → the same without `auto`. Called
            once a merge, after validation; what it returns is what every other callable and the function see.
        exactly: the number of experts it takes; any where None.
        affine: M is a mean of the deltas, weighted by the experts' weights over their sum. Then M of the
            weights is the weights' merge, so that neither the base nor a subtraction is needed where experts
            are full checkpoints, and there is no scale to set.
        resources: what it costs.
        streaming: resolved parameters → how it streams; None where it needs whole tensors.
    """

    function: Callable[..., Delta | Tensor]
    granularity: Granularity
    scale: Callable[[Parameters], float]
    auto: Callable[[Parameters], AutoRule | None]
    published: Parameters
    resolve: Callable[[dict[str, Any], bool], dict[str, Any]]
    exactly: int | None
    affine: bool
    resources: Resources
    streaming: Callable[[Parameters], Streaming | None]

    @property
    def fixed_scale(self) -> bool:
        """Whether the scale is part of the method and can't be set."""
        return self.affine

    @property
    def merges_weights(self) -> bool:
        """Whether whole weights may be merged in place of deltas, so that the base isn't read."""
        return self.affine

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
        factors = self.expert_factors(weights)
        return [delta.scaled(factor) for delta, factor in zip(deltas, factors, strict=True)]

    def expert_factors(self, weights: Sequence[float]) -> list[float]:
        """What each expert's delta is multiplied by; raises `MethodError` where the weights can't be used."""
        if not all(math.isfinite(weight) for weight in weights):
            raise MethodError("a weight is no number", where=f"method {self.name}", got=list(weights))
        mean = math.fsum(weights) / len(weights) if self.affine else 1.0
        if abs(mean) <= 1e-12 * max(map(abs, weights)):
            raise MethodError(f"the weights of {self.name} sum to zero", got=list(weights), hint="change one")
        return [weight / mean for weight in weights]
