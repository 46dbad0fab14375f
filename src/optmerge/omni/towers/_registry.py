"""The registry of kinds of towers.

A model that carries its code has a module with its own kinds in the place of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from optmerge.omni.towers._kind import TowerKind
from optmerge.registry import Registry


def _declared(module: ModuleType) -> list[tuple[str, TowerKind]]:
    return [(module.KIND.name, module.KIND)]


_KINDS = Registry("kind of tower", "optmerge.omni.towers", "optmerge.towers", collect=_declared)


def tower_kinds() -> Mapping[str, TowerKind]:
    """Every declared kind by name, in alphabetical order.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return _KINDS.all()


def tower_kind(name: str) -> TowerKind:
    """The kind of that name.

    Raises:
        InputError: there is none, or a plug-in can't be loaded.
    """
    return _KINDS.get(name)


def tower_module(name: str) -> str:
    """Name of the module that declares the kind of that name.

    Raises:
        InputError: there is no such kind, or a plug-in can't be loaded.
    """
    tower_kind(name)
    return _KINDS.owner(name)
