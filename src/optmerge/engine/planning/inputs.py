"""The base and the experts of a merge: what was opened, and what each can tell of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.architectures import Architecture
from optmerge.checkpoints.adapters import Adapter
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.digests import TensorDigests
from optmerge.checkpoints.reader import Reader
from optmerge.checkpoints.safetensors_format import Header, TensorInfo
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.recipe import Expert


@dataclass(frozen=True)
class Base:
    """The base of a merge.

    Args:
        checkpoint: its headers.
        architecture: its rules.
        aliases: stored tensor → stored tensor it is tied to, both names as stored.
        by_canonical: canonical name → name as stored.
        side_files: writes what lies beside the weights into a folder, where it is made for the merge; None
            where it is copied from a donor.
        untied: (head, embedding) pairs of canonical names of one parameter that the recipe untied.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    aliases: Mapping[str, str]
    by_canonical: Mapping[str, str]
    side_files: Callable[[Path], None] | None = None
    untied: tuple[tuple[str, str], ...] = ()

    def info(self, name: str) -> TensorInfo:
        """Header entry of a tensor."""
        return self.checkpoint.tensors[name]


@dataclass(frozen=True)
class FullExpert:
    """An expert that is a whole checkpoint.

    Args:
        name: of the expert.
        spec: as in the recipe.
        checkpoint: its headers.
        tensors: the base's tensor name → its own.
        swapped: the base's names of tensors whose last two axes this expert stores in the other order.
    """

    name: str
    spec: Expert
    checkpoint: Checkpoint
    tensors: Mapping[str, str]
    swapped: frozenset[str] = frozenset()

    low_rank = False

    @property
    def path(self) -> Path:
        """The expert's folder or file."""
        return self.checkpoint.path

    @property
    def folder(self) -> Path | None:
        """The expert's folder; None for a bare file."""
        return self.checkpoint.folder

    def changes(self, name: str) -> bool:
        """Whether it may hold another value than the base."""
        return name in self.tensors

    def input_bytes(self, name: str) -> int:
        """Bytes read for one tensor."""
        return self.checkpoint.tensors[self.tensors[name]].nbytes if self.changes(name) else 0

    def identity(self) -> dict[str, Any]:
        """The expert's kind, identity and size, for provenance."""
        return {"kind": "full", "identity": self.checkpoint.identity(), "bytes": self.checkpoint.nbytes}

    @property
    def headers(self) -> Mapping[Path, Header]:
        """Headers of the expert's files, by path."""
        return self.checkpoint.headers

    def open(self, digests: TensorDigests | None = None) -> Reader:
        """A reader of the expert's tensors, which tells `digests` of what it reads; a context manager."""
        return self.checkpoint.reader(digests)


@dataclass(frozen=True)
class AdapterExpert:
    """An expert that is a PEFT adapter of the base.

    Args:
        name: of the expert.
        spec: as in the recipe.
        adapter: its header.
        tensors: the base's tensor name → the adapter's target.
    """

    name: str
    spec: Expert
    adapter: Adapter
    tensors: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The adapter's folder."""
        return self.adapter.path

    @property
    def folder(self) -> Path | None:
        """The adapter's folder."""
        return self.adapter.path

    @property
    def low_rank(self) -> bool:
        """Whether every delta of the adapter stays factors."""
        return all(target.kind == "lora" for target in self.adapter.targets.values())

    def changes(self, name: str) -> bool:
        """Whether it holds a delta for a tensor of the base."""
        return name in self.tensors

    def input_bytes(self, name: str) -> int:
        """Bytes read for one tensor."""
        if not self.changes(name):
            return 0
        return sum(part.nbytes for part in self.adapter.targets[self.tensors[name]].parts.values())

    def rank(self, name: str) -> int | None:
        """Rank of a tensor's delta; 0 where it has none, None where it is dense."""
        if not self.changes(name):
            return 0
        target = self.adapter.targets[self.tensors[name]]
        return target.rank if target.kind == "lora" else None

    def identity(self) -> dict[str, Any]:
        """The expert's kind, identity and size, for provenance."""
        return {
            "kind": "adapter",
            "identity": self.adapter.identity(),
            "bytes": self.adapter.header.file_bytes,
        }

    @property
    def headers(self) -> Mapping[Path, Header]:
        """Header of the adapter's file, by path."""
        return {self.adapter.file: self.adapter.header}

    def open(self) -> AbstractContextManager[None]:
        """Adapters open their file for each delta; nothing is held."""
        return nullcontext()

    def delta(self, name: str, read_base: Callable[[], Tensor], shape: tuple[int, ...]) -> Delta:
        """Its delta of one tensor; factors where it can be, an exact zero where it has none."""
        if not self.changes(name):
            return _no_change(shape)
        return self.adapter.delta(self.tensors[name], read_base, shape)


AnyExpert = FullExpert | AdapterExpert


@dataclass(frozen=True)
class Inputs:
    """Everything a merge reads.

    Args:
        base: the base.
        experts: in the order of the recipe.
    """

    base: Base
    experts: tuple[AnyExpert, ...]

    @property
    def low_rank(self) -> bool:
        """Whether every expert's deltas are known to be low-rank."""
        return all(expert.low_rank for expert in self.experts)

    def factors(self, name: str) -> bool:
        """Whether some expert's delta of a tensor of the base comes as factors."""
        return any(isinstance(expert, AdapterExpert) and expert.rank(name) for expert in self.experts)

    def expert(self, name: str) -> AnyExpert:
        """The expert of that name."""
        return next(expert for expert in self.experts if expert.name == name)


def _no_change(shape: tuple[int, ...]) -> Delta:
    if len(shape) < 2:
        return Dense(torch.zeros(shape))
    columns = 1
    for length in shape[1:]:
        columns *= length
    return LowRank(torch.zeros(shape[0], 0), torch.zeros(0, columns), shape if len(shape) > 2 else None)
