"""What a search can choose: candidates, the spaces they are drawn from, and the recipes they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from optmerge.errors import InputError, did_you_mean
from optmerge.methods import get, registered
from optmerge.methods._parameters import Fraction
from optmerge.recipe import AUTO, Recipe, parse_recipe

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Part = Literal["method", "strength", "weights", "components", "parameters"]
PARTS: tuple[Part, ...] = get_args(Part)
STRENGTHS = (0.25, 2.0)
"""Least and largest factor on the scale that the recipe's method chooses."""
WEIGHTS = (0.25, 2.0)
"""Least and largest weight of an expert."""
FRACTIONS = (0.05, 1.0)
"""Least and largest value of a parameter that is a share, such as TIES' `keep`."""


@dataclass(frozen=True)
class Candidate:
    """One merge that is tried.

    Args:
        method: name of the method.
        strengths: component → factor on the scale that the recipe or the method's rule gives.
        parameters: the method's own, where they differ from the recipe's or the defaults.
        weights: one for each expert.
    """

    method: str
    strengths: Mapping[str, float]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()

    @property
    def merge(self) -> tuple[object, ...]:
        """What decides the merged delta: candidates that agree in this differ in strengths alone."""
        return self.method, tuple(sorted(self.parameters.items())), self.weights

    def recipe(self, asked: Recipe, *, with_strengths: bool = True) -> Recipe:
        """The recipe that makes this candidate.

        Args:
            asked: the recipe that is tuned.
            with_strengths: whether the strengths are part of it; else they are all 1.
        """
        data = asked.plain()
        data["method"] = self._choice(asked, 1.0)
        for expert, weight in zip(data["experts"], self.weights, strict=True):
            expert["weight"] = weight
        strengths = dict(self.strengths) if with_strengths else {}
        if len(set(strengths.values())) == 1:
            data["method"] = self._choice(asked, next(iter(strengths.values())))
        else:
            narrowed = {key: data["select"][key] for key in ("kinds", "include", "exclude")}
            data["rules"] = data["rules"] + [
                {"match": {"components": [name], **narrowed}, "method": self._choice(asked, strength)}
                for name, strength in strengths.items()
                if strength != 1
            ]
        return parse_recipe(data)

    def _choice(self, asked: Recipe, strength: float) -> dict[str, Any]:
        """The method as a recipe writes it."""
        same = get(self.method).name == get(asked.method.name).name
        own = asked.method.parameters if same else {}
        if same and asked.method.modifiers:
            own = {"with": asked.plain()["method"]["with"], **own}
        scale = {"scale": asked.method.scale} if same and asked.method.scale is not None else {}
        given = asked.method.strength if same else 1.0
        factors = [round(strength * each, 4) for each in (given if isinstance(given, list) else [given])]
        named = {} if factors == [1] or get(self.method).fixed_scale else {"strength": _one_or_list(factors)}
        return {"name": self.method, **scale, **named, **own, **self.parameters}


def _one_or_list(factors: list[float]) -> float | list[float]:
    return factors[0] if len(factors) == 1 else factors


@dataclass(frozen=True)
class Space:
    """What a search may choose from.

    Args:
        asked: the recipe that is tuned; what isn't searched stays as the recipe has it.
        methods: names of the methods.
        parts: what is searched.
        components: components of the model that are merged.
    """

    asked: Recipe
    methods: tuple[str, ...]
    parts: frozenset[Part]
    components: tuple[str, ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """The recipe's own weights."""
        return tuple(expert.weight for expert in self.asked.experts)

    def first(self) -> list[dict[str, Any]]:
        """Values of the trials that come before all others: every method as it is by default."""
        return [self._values(name) for name in self.methods]

    def default(self) -> Candidate:
        """The recipe as it is."""
        return Candidate(self.methods[0], dict.fromkeys(self.components, 1.0), {}, self.weights)

    def _values(self, method: str) -> dict[str, Any]:
        found: dict[str, Any] = {"method": method} if len(self.methods) > 1 else {}
        if "components" in self.parts:
            found |= {f"strength of {name}": 1.0 for name in self.components}
        elif "strength" in self.parts:
            found["strength"] = 1.0
        if "weights" in self.parts:
            found |= {
                f"weight of {name}": weight
                for name, weight in zip(self.asked.expert_names(), self.weights, strict=True)
            }
        return found

    def draw(self, trial: BaseTrial) -> Candidate:
        """The candidate of a trial."""
        method = (
            trial.suggest_categorical("method", self.methods) if len(self.methods) > 1 else self.methods[0]
        )
        fixed = get(method).fixed_scale
        strengths = dict.fromkeys(self.components, 1.0)
        if "components" in self.parts and not fixed:
            for name in self.components:
                strengths[name] = trial.suggest_float(f"strength of {name}", *STRENGTHS, log=True)
        elif "strength" in self.parts and not fixed:
            strengths = dict.fromkeys(self.components, trial.suggest_float("strength", *STRENGTHS, log=True))
        weights = self.weights
        if "weights" in self.parts:
            weights = tuple(
                trial.suggest_float(f"weight of {name}", *WEIGHTS, log=True)
                for name in self.asked.expert_names()
            )
        parameters = {}
        if "parameters" in self.parts:
            for name in shares(method):
                parameters[name] = round(trial.suggest_float(f"{method}.{name}", *FRACTIONS), 3)
        return Candidate(method, strengths, parameters, weights)


def shares(method: str) -> tuple[str, ...]:
    """Names of a method's parameters that are shares in (0, 1]."""
    fields = get(method).parameters.model_fields
    bounds = get_args(Fraction)[1].metadata
    return tuple(
        name for name, each in fields.items() if each.annotation is float and each.metadata == bounds
    )


def methods_for(asked: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    """The methods to try, the recipe's own first.

    Args:
        asked: the recipe that is tuned.
        names: of methods; none for all that take so many experts and have a rule for their scale.

    Raises:
        InputError: a method is unknown.
    """
    own = get(asked.method.name).name
    for name in names:
        try:
            get(name)
        except InputError as problem:
            raise InputError(problem.what, where="--method", hint=problem.hint) from None
    if names:
        return tuple(dict.fromkeys(own if name == AUTO else name for name in names))
    able = (
        name
        for name, each in registered().items()
        if each.exactly in (None, len(asked.experts)) and not each.fixed_scale
    )
    return tuple(dict.fromkeys((own, *able)))


def parts_of(names: Sequence[str]) -> frozenset[Part]:
    """The parts that are searched.

    Raises:
        InputError: a part is unknown.
    """
    for name in names:
        if name not in PARTS:
            raise InputError(
                f"nothing called {name!r} can be searched", where="--search", hint=did_you_mean(name, PARTS)
            )
    return frozenset(part for part in PARTS if part in names)
