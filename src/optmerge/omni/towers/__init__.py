"""Kinds of towers: how an encoder is called, and what of its output becomes embeddings.

A kind is one file in this package that declares `KIND`; nothing else needs touching. Files whose name starts
with an underscore are shared by the kinds.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from optmerge.errors import InputError, did_you_mean
from optmerge.omni.towers._kind import TowerKind

__all__ = ["TowerKind", "tower_kind", "tower_kinds"]


@functools.cache
def tower_kinds() -> Mapping[str, TowerKind]:
    """Every declared kind by name."""
    files = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = [importlib.import_module(f"{__name__}.{file}").KIND for file in files]
    return MappingProxyType({kind.name: kind for kind in found})


def tower_kind(name: str) -> TowerKind:
    """The kind of that name.

    Raises:
        InputError: there is none.
    """
    kinds = tower_kinds()
    if name not in kinds:
        raise InputError("unknown kind of tower", got=name, hint=did_you_mean(name, kinds))
    return kinds[name]
