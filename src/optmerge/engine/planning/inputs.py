"""The base and the experts of a merge: what was opened, and what each can tell of a tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.architectures import Architecture
from optmerge.checkpoints.adapters import Adapter, TargetPiece
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
        record: what provenance says of side files that are made for the merge.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    aliases: Mapping[str, str]
    by_canonical: Mapping[str, str]
    side_files: Callable[[Path], None] | None = None
    untied: tuple[tuple[str, str], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

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

    def stored_whole(self, name: str) -> str | None:
        """The expert's own name of a tensor of the base."""
        return self.tensors[name]

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
        tensors: the base's tensor name → where in the adapter its change is.
        renamed: a target's name, as in a model of text alone or in one around it, and the base's; None where
            the adapter has the base's names.
    """

    name: str
    spec: Expert
    adapter: Adapter
    tensors: Mapping[str, TargetPiece]
    renamed: tuple[str, str] | None = None

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
        """Whether every delta of the adapter is of low rank."""
        return all(self.adapter.targets[piece.target].kind == "lora" for piece in self.tensors.values())

    def changes(self, name: str) -> bool:
        """Whether it holds a delta for a tensor of the base."""
        return name in self.tensors

    def input_bytes(self, name: str) -> int:
        """Bytes read for one tensor."""
        if not self.changes(name):
            return 0
        piece = self.tensors[name]
        target = self.adapter.targets[piece.target]
        size = sum(part.nbytes for part in target.parts.values())
        return size // target.shape[0] if piece.expert is not None else size

    def rank(self, name: str) -> int | None:
        """Rank of a tensor's delta; 0 where it has none, None where it is dense."""
        if not self.changes(name):
            return 0
        target = self.adapter.targets[self.tensors[name].target]
        return target.rank if target.kind == "lora" and not self.stacks(name) else None

    def stacks(self, name: str) -> bool:
        """Whether a tensor's delta is that of a whole stack of experts, each of low rank."""
        piece = self.tensors.get(name)
        if piece is None or piece.expert is not None:
            return False
        target = self.adapter.targets[piece.target]
        return target.stacked and len(target.shape) == 3

    def identity(self) -> dict[str, Any]:
        """The expert's kind, identity and size, for provenance."""
        return {
            "kind": "adapter",
            "identity": self.adapter.identity(),
            "bytes": self.adapter.nbytes,
        }

    @property
    def headers(self) -> Mapping[Path, Header]:
        """Headers of the adapter's files, by path."""
        return self.adapter.headers

    def stored_whole(self, name: str) -> str | None:
        """Name in the adapter's file of a new value for a tensor; None where the adapter holds a delta."""
        parts = self.adapter.targets[self.tensors[name].target].parts
        return parts["full"].name if parts.keys() == {"full"} else None

    def has_factors_alone(self, name: str) -> bool:
        """Whether the delta of a tensor is plain factors, to which the base has nothing to say."""
        target = self.adapter.targets[self.tensors[name].target]
        return target.kind == "lora" and target.parts.keys() == {"down", "up"}

    def open(self, digests: TensorDigests | None = None) -> Reader:
        """A reader of the tensors in the adapter's file, which tells `digests` of them; a context manager."""
        return self.adapter.reader(digests)

    def delta(
        self,
        name: str,
        read_base: Callable[[], Tensor],
        shape: tuple[int, ...],
        experts: tuple[int, int] | None = None,
    ) -> Delta:
        """Its delta of one tensor; factors where it can be, an exact zero where it has none.

        Args:
            name: the base's name of the tensor.
            read_base: reads the base's tensor.
            shape: the tensor's.
            experts: of a whole stack (`stacks`), the first and last-plus-one expert; None for all.
        """
        if not self.changes(name):
            return _no_change(shape)
        piece = self.tensors[name]
        if piece.expert is not None or self.stacks(name):
            return self.adapter.piece_delta(piece, experts)
        return self.adapter.delta(piece.target, read_base, shape)


AnyExpert = FullExpert | AdapterExpert


def shape_of(expert: AnyExpert, name: str) -> tuple[int, ...]:
    """Shape of the expert's own tensor for a tensor of the base."""
    if isinstance(expert, AdapterExpert):
        return expert.adapter.targets[expert.tensors[name].target].shape
    return expert.checkpoint.tensors[expert.tensors[name]].shape


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Which row of each model a row of the output is, where not all have the base's vocabulary.

    Args:
        tensors: the base's names of tensors that have a row for each token.
        stored: the base as its files have it; the headers in `Base` have the output's rows.
        base: (rows,) rows of the base; −1 where the base lacks the token.
        experts: the same of each expert whose rows aren't the output's, by name. Where an expert lacks a
            token it counts as unchanged.
        named: (rows,) whether the row has a token; others are padding.
        added: entries of the tokens that the base lacks, with the ids that they have in the output.
        unknown: where the base starts for those, as the recipe says.
    """

    tensors: frozenset[str]
    stored: Checkpoint
    base: NDArray[np.int64]
    experts: Mapping[str, NDArray[np.int64]]
    named: NDArray[np.bool_]
    added: tuple[Mapping[str, Any], ...]
    unknown: str

    @property
    def grown(self) -> bool:
        """Whether the output has more rows than the base."""
        return len(self.base) > self.stored.tensors[min(self.tensors)].shape[0]

    def plain(self) -> dict[str, Any]:
        """The output's vocabulary as JSON-ready data."""
        return {"rows": len(self.base), "added": {entry["content"]: entry["id"] for entry in self.added}}

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of every list of rows and every added token."""
        total = hashlib.sha256(json.dumps([dict(entry) for entry in self.added], sort_keys=True).encode())
        for name, rows in (("", self.base), *self.experts.items()):
            total.update(name.encode("utf-8", "surrogatepass") + rows.tobytes())
        return total.hexdigest()


@dataclass(frozen=True)
class Inputs:
    """Everything a merge reads.

    Args:
        base: the base.
        experts: in the order of the recipe.
        notes: what the user should know of them.
        tokens: whose rows meet by token; None where all do by their place.
    """

    base: Base
    experts: tuple[AnyExpert, ...]
    notes: tuple[str, ...] = ()
    tokens: TokenRows | None = None

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
