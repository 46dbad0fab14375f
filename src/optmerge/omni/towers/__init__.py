"""Kinds of towers: how an encoder is called, and which of its states become embeddings.

A kind is one file in this package that declares `KIND`; nothing else needs touching. Files whose name starts
with an underscore are shared by the kinds. Another package adds kinds by entry points in the group
`optmerge.towers`, each naming a module that declares `KIND`.
"""

from optmerge.omni.towers._kind import (
    Extracted,
    TowerKind,
    TowerShape,
    hidden_options,
    hidden_states,
)
from optmerge.omni.towers._registry import tower_kind, tower_kinds, tower_module

__all__ = [
    "Extracted",
    "TowerKind",
    "TowerShape",
    "hidden_options",
    "hidden_states",
    "tower_kind",
    "tower_kinds",
    "tower_module",
]
