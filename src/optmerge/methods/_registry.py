"""The registry of merging methods.

A file of this package without an underscore declares methods by the `@method` decorator, and so does every
module that an entry point of the group `optmerge.methods` names. Nothing is kept in a list by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from optmerge.deltas import Delta
from optmerge.errors import MethodError
from optmerge.methods._method import Granularity, Method, Parameters, Resources, Streaming, as_given
from optmerge.methods._scales import AutoRule
from optmerge.registry import Registry

METHODS: Registry[Method] = Registry("method", "optmerge.methods", "optmerge.methods", error=MethodError)

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Delta | Tensor])


def method(
    *,
    granularity: Granularity,
    scale: float | Callable[[Parameters], float],
    auto: AutoRule | Callable[[Parameters], AutoRule | None] | None = None,
    published: Parameters = MappingProxyType({}),
    resolve: Callable[[dict[str, Any], bool], dict[str, Any]] = as_given,
    exactly: int | None = None,
    affine: bool = False,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    streaming: Streaming | Callable[[Parameters], Streaming] | None = None,
) -> Callable[[Function], Function]:
    """Registers a function as a merging method under its own name.

    Args:
        granularity: `element`, `tensor` or `matrix`: what the function may be given, as for `Method`.
        scale: published scale, or (resolved parameters) → published scale; the default without `auto`.
        auto: rule by which the scale is chosen from the deltas, or (resolved parameters) → rule; then that is
            the default. None where no rule is known.
        published: parameters that differ from the defaults in what was published.
        resolve: (validated parameters, whether every expert is low-rank) → the same without `auto`; by
            default as they are.
        exactly: the number of experts it takes; any by default.
        affine: M is the experts' weighted mean, as for `Method`.
        resources: what it costs; by default the work of a sum in plenty of memory.
        streaming: how it streams, or (resolved parameters) → how it streams. By default a method of
            granularity `element` streams without a survey, and the others get whole tensors.

    Returns:
        A decorator that returns the function as it is.

    Raises:
        MethodError: another module has registered a method of that name.
    """
    if streaming is None and granularity == "element":
        streaming = Streaming()

    def register(function: Function) -> Function:
        found = Method(
            function=function,
            granularity=granularity,
            scale=scale if callable(scale) else _always(scale),
            auto=auto if callable(auto) else _always(auto),
            published=published,
            resolve=resolve,
            exactly=exactly,
            affine=affine,
            resources=resources,
            streaming=streaming if callable(streaming) else _always(streaming),
        )
        assert found.parameters is not None, (
            "made now, so that a signature that can't be read is refused here"
        )
        METHODS.add(found.name, found, function.__module__)
        return function

    return register


def _always(value: Value) -> Callable[[Parameters], Value]:
    return lambda parameters: value


def registered() -> Mapping[str, Method]:
    """Every method by name, in alphabetical order.

    Raises:
        MethodError: a plug-in can't be loaded.
    """
    return METHODS.all()


AUTO, DEFAULT = "auto", "swudi"
"""A name that stands for the method that keeps most on both of the benchmark's lines (docs/benchmark.md)."""


def registered_method(name: str) -> Method:
    """The method of that name; `auto` is the default one.

    Raises:
        MethodError: there is none; with the closest name.
    """
    return METHODS.get(DEFAULT if name == AUTO else name)
