"""Finding the architecture of a checkpoint among the families declared in this package and by plug-ins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._from_class import read_class
from optmerge.architectures._generic import BARE, fallback
from optmerge.errors import InputError
from optmerge.registry import Registry


def _declared(module: ModuleType) -> list[tuple[str, Architecture]]:
    return [(architecture.name, architecture) for architecture in module.ARCHITECTURES]


_ARCHITECTURES = Registry(
    "architecture", "optmerge.architectures", "optmerge.architectures", collect=_declared
)


def registered() -> Mapping[str, Architecture]:
    """Every declared architecture by name, in alphabetical order.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return _ARCHITECTURES.all()


def resolve(config: Mapping[str, Any] | None, names: Iterable[str]) -> Architecture:
    """Architecture of a checkpoint: a declared family, else what transformers' class says, else a guess.

    A family is declared for a class or a `model_type`. Only the second way imports transformers, to build the
    class on the `meta` device.

    Args:
        config: its `config.json`, or None where it has none; then nothing is known but shapes (`bare`).
        names: its tensor names. A family that doesn't know most of them is not believed, whatever the config
            says: the original LLaVA's files share a `model_type` with the converted ones.

    Returns:
        The architecture, which says in which of the three ways it is known (`way`).

    Raises:
        InputError: a plug-in can't be loaded, or two families declare one class.
    """
    if config is None:
        return BARE
    names = tuple(names)
    family = _by_class(config.get("architectures") or ()) or registered().get(str(config.get("model_type")))
    if family is None or not family.knows(names):
        read = read_class(config, names)
        if not isinstance(read, str):
            return read
        family = fallback(config, names, read)
    return replace(family, hidden_size=_hidden_size(config))


def _by_class(classes: Iterable[str]) -> Architecture | None:
    declared: dict[str, Architecture] = {}
    for family in registered().values():
        for name in family.classes:
            if name in declared:
                raise InputError(
                    f"two architectures declare the class {name}",
                    where=f"module {_ARCHITECTURES.owner(family.name)}",
                    got=f"one from module {_ARCHITECTURES.owner(declared[name].name)}",
                    hint="uninstall one of the packages",
                )
            declared[name] = family
    return next((declared[name] for name in classes if name in declared), None)


def _hidden_size(config: Mapping[str, Any]) -> int | None:
    nested = config.get("text_config") or config.get("llm_config") or {}
    size = nested.get("hidden_size", config.get("hidden_size"))
    return size if isinstance(size, int) else None
