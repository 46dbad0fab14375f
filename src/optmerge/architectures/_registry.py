"""Finding the architecture of a checkpoint among the families declared in this package."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._generic import BARE, fallback


@functools.cache
def registered() -> Mapping[str, Architecture]:
    """Every declared architecture by name, in alphabetical order."""
    package = importlib.import_module(__package__)
    files = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    modules = [importlib.import_module(f"{__package__}.{file}") for file in files]
    found = [architecture for module in modules for architecture in module.ARCHITECTURES]
    return MappingProxyType({each.name: each for each in sorted(found, key=lambda each: each.name)})


def resolve(config: Mapping[str, Any] | None, names: Iterable[str]) -> Architecture:
    """Architecture of a checkpoint.

    Args:
        config: its `config.json`, or None where it has none; then nothing is known but shapes (`bare`).
        names: its tensor names. A family that doesn't know most of them is not believed, whatever the config
            says: the original LLaVA's files share a `model_type` with the converted ones.

    Returns:
        The declared family, or the generic guess, which says it is one.
    """
    if config is None:
        return BARE
    names = tuple(names)
    family = _by_class(config.get("architectures") or ()) or registered().get(str(config.get("model_type")))
    if family is None or not family.knows(names):
        family = fallback(config, names)
    return replace(family, hidden_size=_hidden_size(config))


def _by_class(classes: Iterable[str]) -> Architecture | None:
    declared = {name: each for each in registered().values() for name in each.classes}
    return next((declared[name] for name in classes if name in declared), None)


def _hidden_size(config: Mapping[str, Any]) -> int | None:
    nested = config.get("text_config") or config.get("llm_config") or {}
    size = nested.get("hidden_size", config.get("hidden_size"))
    return size if isinstance(size, int) else None
