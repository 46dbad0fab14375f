"""Architectures: what a tensor is, judged by its name alone.

A family is one declarative file in this package that lists `ARCHITECTURES`; nothing else needs touching.
Modules whose name starts with an underscore are shared by the families. Another package adds families by
entry points in the group `optmerge.architectures`, each naming a module that lists `ARCHITECTURES`.
"""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture, Way
from optmerge.architectures._peft_places import PeftPlaces, peft_places
from optmerge.architectures._registry import registered, resolve
from optmerge.architectures._roles import COMPONENTS, KINDS, Role
from optmerge.architectures._ties import untied, with_vocabulary_size

__all__ = [
    "COMPONENTS",
    "KINDS",
    "Architecture",
    "PeftPlaces",
    "Role",
    "Way",
    "peft_places",
    "registered",
    "resolve",
    "untied",
    "with_vocabulary_size",
]
