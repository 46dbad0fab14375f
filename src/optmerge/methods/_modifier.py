"""What a modifier is: a function around a method, for whatever deltas and M the method works with.

A modifier sees the deltas of one matrix and a function that merges them, so it may change the deltas before
(Pico, STAR), the coordinates in which they are merged (Core Space, KnOTS), or M after (SVC). It goes with
every method. `method: swudi+svc` names one by its defaults, `with: [{name: svc, floor: 1}]` sets parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from optmerge.deltas import Delta
from optmerge.errors import MethodError
from optmerge.methods._method import Case, Described, Method, Parameters
from optmerge.methods._scales import AutoRule
from optmerge.registry import Registry

Merge = Callable[[Sequence[Delta]], Delta]
"""Merges the deltas of one matrix, whatever its size: the method, and the modifiers before."""

JOINT = "+"
"""Stands between a method and its modifiers in a name, as in `tsv+isotropize+core_space`."""


@dataclass(frozen=True)
class Modifier(Described):
    """A registered modifier. Name, summary and parameters are read from its function.

    Args:
        function: `(deltas, merge, *, context?, **parameters) → delta` on one matrix, `merge` being what it
            modifies.
        auto: rule of the scale of what comes out; None where that of the method stays right.
        work: floating-point operations beside the method's.
        workspace: m×n float32 arrays held beside the method's and the deltas, as in `Resources`.
        keeps_factors: whether what it modifies keeps low-rank deltas factors → whether the whole does.
    """

    auto: AutoRule | None
    work: Callable[[Case], float]
    workspace: Callable[[Case], float]
    keeps_factors: Callable[[bool], bool]
    _what: ClassVar[str] = "modifier"


@dataclass(frozen=True)
class ModifierUse:
    """A modifier with its parameters.

    Args:
        name: of the modifier.
        parameters: complete.
    """

    name: str
    parameters: Mapping[str, Any]


MODIFIERS: Registry[Modifier] = Registry(
    "modifier", "optmerge.methods.modifiers", "optmerge.modifiers", error=MethodError
)

Function = TypeVar("Function", bound=Callable[..., Delta])


def modifier(
    *,
    work: Callable[[Case], float],
    workspace: Callable[[Case], float],
    auto: AutoRule | None = None,
    keeps_factors: Callable[[bool], bool] = lambda inner: inner,
) -> Callable[[Function], Function]:
    """Registers a function as a modifier under its own name; the arguments are those of `Modifier`.

    Raises:
        MethodError: another module has registered a modifier of that name.
    """

    def register(function: Function) -> Function:
        found = Modifier(function, auto, work, workspace, keeps_factors)
        assert found.parameters is not None, "made now, so that a bad signature is refused here"
        MODIFIERS.add(found.name, found, function.__module__)
        return function

    return register


def modifier_use(name: str, parameters: Parameters) -> ModifierUse:
    """The modifier of that name with its parameters completed.

    Raises:
        MethodError: there is no such modifier, or a parameter is unknown or out of its domain.
    """
    return ModifierUse(name, MODIFIERS.get(name).validate(parameters))


@dataclass(frozen=True)
class ModifiedMethod(Method):
    """A method with modifiers around it: a method of whole tensors.

    Args:
        inner: the method.
        modifiers: each goes around what stands before it.
    """

    inner: Method
    modifiers: tuple[ModifierUse, ...]

    @property
    def name(self) -> str:
        """Names of the method and its modifiers, as a recipe writes them together."""
        return JOINT.join((self.inner.name, *(use.name for use in self.modifiers)))

    @property
    def merges_weights(self) -> bool:
        """False: modifiers work on deltas."""
        return False

    @property
    def parameters(self) -> type[BaseModel]:
        """Parameters of the method alone."""
        return self.inner.parameters

    def validate(self, parameters: Parameters) -> dict[str, Any]:
        """The method's own parameters; those of modifiers are complete."""
        return self.inner.validate(parameters)


def modified_resources(inner: Method, uses: Sequence[ModifierUse]) -> Method:
    """The method's declaration as that of the method with modifiers; its function is still the method's."""
    own = inner.resources

    def around(case: Case) -> list[tuple[Modifier, Case]]:
        return [(MODIFIERS.get(use.name), replace(case, parameters=use.parameters)) for use in uses]

    def keeps_factors(parameters: Parameters) -> bool:
        kept = own.keeps_factors(parameters)
        for use in uses:
            kept = MODIFIERS.get(use.name).keeps_factors(kept)
        return kept

    def auto(parameters: Parameters) -> AutoRule | None:
        rules = [MODIFIERS.get(use.name).auto for use in uses]
        return next((rule for rule in reversed(rules) if rule), inner.auto(parameters))

    return replace(
        inner,
        granularity="tensor",
        auto=inner.auto if inner.affine else auto,
        streaming=lambda parameters: None,
        resources=replace(
            own,
            work=lambda case: own.work(case) + sum(each.work(one) for each, one in around(case)),
            workspace=lambda case: own.workspace(case) + sum(e.workspace(one) for e, one in around(case)),
            keeps_factors=keeps_factors,
        ),
    )
