"""What tests need to know of the registered methods, derived from what the methods say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from optmerge import registry
from optmerge.methods import Method, registered
from optmerge.methods._registry import METHODS

_VARIANTS: dict[str, dict[str, Any]] = {
    "ties": {"keep": 0.6},
    "slerp": {"t": 0.3},
    "wudi": {"steps": 20, "lr": 1e-3},
    "wudi exact": {"solver": "exact"},
    "optmerge solved": {},
    "optmerge lora": {"variant": "lora", "lr": 0.05, "steps": 40},
    "optmerge full": {"variant": "full", "lr": 1e-3, "steps": 20},
    "optmerge full closed_form": {"variant": "full", "solver": "closed_form", "lr": 0.05, "steps": 40},
}
"""Where defaults take long, or where there is more than one way through a method."""


def _entries() -> dict[str, dict[str, Any]]:
    varied = {entry.split()[0] for entry in _VARIANTS}
    own = [name for name, each in registered().items() if each.function.__module__.startswith("optmerge.")]
    return {**_VARIANTS, **{name: {} for name in own if name not in varied}}


EVERY_METHOD = _entries()
"""Parameters of every method of this package. A key is a name in the registry, then what tells two entries of
the name apart."""


def method_of(entry: str) -> Method:
    return registered()[entry.split()[0]]


def fits(entry: str, experts: int) -> bool:
    return method_of(entry).exactly in (None, experts)


def _declares_factors(entry: str) -> bool:
    method = method_of(entry)
    return method.resources.keeps_factors(method.resolve(method.validate(EVERY_METHOD[entry]), True))


FACTORED = [entry for entry in EVERY_METHOD if _declares_factors(entry)]
FACTORED += ["average", "task_arithmetic", "slerp"]
"""Entries that merge low-rank deltas into a low-rank one. The last three are sums, which the engine takes
slice by slice or whole but never plans as factors, so they don't declare it."""


def out_of_domain(method: Method, parameter: str) -> list[Any]:
    """Values that a parameter's annotation excludes: just beyond each bound, a choice that isn't offered,
    another type, NaN."""
    schema = method.parameters.model_json_schema()["properties"][parameter]
    found: list[Any] = [float("nan")]
    for each in schema.get("anyOf", [schema]):
        kind = each.get("type")
        found += [] if kind == "array" else [[]]
        if kind in ("number", "integer"):
            found += ["no number", float("inf")]
            found += [each["minimum"] - 1] if "minimum" in each else []
            found += [each["maximum"] + 1] if "maximum" in each else []
            found += [each[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in each]
        if "enum" in each or "const" in each:
            found.append("no such choice")
    return found


@contextmanager
def own_registry(plugins: list[Any] | None = None) -> Iterator[None]:
    """What is registered inside is forgotten outside; given plug-ins are loaded inside as if installed."""
    registered()
    with pytest.MonkeyPatch.context() as patch:
        for table in ("_items", "_owners"):
            patch.setattr(METHODS, table, dict(getattr(METHODS, table)))
        if plugins is not None:
            patch.setattr(METHODS, "_loaded", False)
            patch.setattr(registry, "entry_points", lambda group: [p for p in plugins if p.group == group])
        yield
