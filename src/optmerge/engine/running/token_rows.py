"""Rows of embeddings and heads by token: each model read as if it had the output's vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.checkpoints.reader import Reader
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.engine.planning.cost import BLOCK_BYTES, PURSUIT_BYTES
from optmerge.engine.planning.inputs import AdapterExpert, FullExpert, Inputs, TokenRows, shape_of
from optmerge.engine.running.pursuit import MOST, combinations

Rows = NDArray[np.int64]


class TokenReader:
    """Reads models row by row of the output's vocabulary; safe to use from many threads.

    Args:
        inputs: the opened base and experts.
        tokens: which rows are whose.
        base: reads the base as it is stored.
        experts: read the full experts, by name.
    """

    def __init__(
        self, inputs: Inputs, tokens: TokenRows, base: Reader, experts: Mapping[str, Reader]
    ) -> None:
        self._inputs, self._tokens, self._base, self._experts = inputs, tokens, base, experts
        self._new = np.array([entry["id"] for entry in tokens.added], dtype=np.int64)
        self._starts: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a flattened tensor of the base, in the output's rows and its own type."""
        return self._span(name, start, stop, lambda rows: self._base_rows(name, rows))

    def expert(self, expert: AdapterExpert | FullExpert, name: str, start: int, stop: int) -> Tensor:
        """The same of an expert: what the base has where it lacks a token, in a type that holds both exactly.

        Args:
            expert: the expert, which stores the tensor whole.
            name: the base's name of the tensor.
            start: first element.
            stop: last element plus one.
        """
        mapped = self._tokens.experts.get(expert.name)
        own = expert.stored_whole(name) or name

        def read(rows: Rows) -> Tensor:
            theirs = rows if mapped is None else mapped[rows]
            found = _gathered(self._experts[expert.name], own, theirs, self._width(name))
            lacking = np.flatnonzero(theirs < 0)
            if not len(lacking):
                return found
            base = self._base_rows(name, rows[lacking]).reshape(len(lacking), -1)
            found = found.to(torch.promote_types(found.dtype, base.dtype))
            found[torch.from_numpy(lacking)] = base.to(found.dtype)
            return found

        return self._span(name, start, stop, read)

    def delta(self, expert: AdapterExpert, name: str, shape: tuple[int, ...]) -> Delta:
        """What an adapter changes, in the output's rows; nothing where it lacks a token."""
        target = expert.adapter.targets[expert.tensors[name].target]
        mapped = self._mapped(expert)
        length = target.shape[0]

        def base() -> Tensor:
            held = np.flatnonzero((mapped >= 0) & (mapped < length))
            rows = self._base_rows(name, held)
            found = rows.new_zeros(length, *rows.shape[1:])
            found[torch.from_numpy(mapped[held])] = rows
            return found

        delta = expert.adapter.delta(target.name, base, (length, *shape[1:]))
        part = delta.up if isinstance(delta, LowRank) else delta.values
        placed = part.new_zeros(shape[0], *part.shape[1:])
        held = np.flatnonzero(mapped >= 0)
        placed[torch.from_numpy(held)] = part[torch.from_numpy(mapped[held])]
        return LowRank(placed, delta.down) if isinstance(delta, LowRank) else Dense(placed)

    def _mapped(self, expert: AdapterExpert | FullExpert) -> Rows:
        return self._tokens.experts.get(expert.name, np.arange(len(self._tokens.base)))

    def _width(self, name: str) -> int:
        return prod(self._tokens.stored.tensors[name].shape[1:])

    def _span(self, name: str, start: int, stop: int, read: Callable[[Rows], Tensor]) -> Tensor:
        width = self._width(name)
        first = start // width
        flat = read(np.arange(first, -(-stop // width))).flatten()
        return flat[start - first * width : stop - first * width]

    def _base_rows(self, name: str, rows: Rows) -> Tensor:
        """(rows, …) of the base, new ones included, in its type."""
        own = self._tokens.base[rows]
        found = _gathered(self._base, name, own, self._width(name))
        lacking = np.flatnonzero(own < 0)
        if len(lacking):
            places = np.searchsorted(self._new, rows[lacking])
            found[torch.from_numpy(lacking)] = self._start(name)[torch.from_numpy(places)].to(found.dtype)
        return found.view(len(rows), *self._tokens.stored.tensors[name].shape[1:])

    def _start(self, name: str) -> Tensor:
        """(new tokens, width) float32: the rows at which the base starts; made once for a tensor."""
        with self._lock:
            if name not in self._starts:
                self._starts.clear()  # tensors come one after another
                self._starts[name] = self._made(name)
            return self._starts[name]

    def _made(self, name: str) -> Tensor:
        width = self._width(name)
        total = torch.zeros(len(self._new), width, dtype=torch.float64)
        owners = torch.zeros(len(self._new), dtype=torch.int64)
        if self._tokens.unknown != "mean":
            for expert in self._inputs.experts:
                self._add_owned(name, expert, total, owners)
        found = total / owners.clamp(min=1)[:, None]
        if bool((owners == 0).any()):
            found[owners == 0] = self._mean(name)
        return found.to(torch.float32)

    def _add_owned(
        self, name: str, expert: AdapterExpert | FullExpert, total: Tensor, owners: Tensor
    ) -> None:
        """Adds the row that an expert gives for each new token it has: its own, or one that stands for it."""
        theirs = self._mapped(expert)[self._new]
        length = self._stored_rows(name) if not expert.changes(name) else shape_of(expert, name)[0]
        held = np.flatnonzero((theirs >= 0) & (theirs < length))
        if not len(held):
            return
        width, places = self._width(name), torch.from_numpy(held)
        rows = self._owned(expert, name, theirs[held])
        owners[places] += 1
        if self._tokens.unknown == "owners":
            total[places] += rows.to(torch.float64)
            return
        mapped, own = self._mapped(expert), self._tokens.base
        shared = np.flatnonzero((mapped >= 0) & (own >= 0) & self._tokens.named)

        def dictionary() -> Iterator[tuple[int, Tensor]]:
            for start, block in _blocks(shared, width):
                yield start, self._owned(expert, name, mapped[block]).to(torch.float64)

        group = max(1, PURSUIT_BYTES // (8 * MOST * width))
        for first in range(0, len(held), group):
            vectors = rows[first : first + group].to(torch.float64)
            for place, (chosen, factors) in enumerate(combinations(vectors, dictionary), first):
                ours = _gathered(self._base, name, own[shared[chosen]], width)
                total[held[place]] += factors @ ours.to(torch.float64)

    def _owned(self, expert: AdapterExpert | FullExpert, name: str, rows: Rows) -> Tensor:
        """(rows, width) of a tensor as the expert by itself has it: its own rows, not the output's."""
        width = self._width(name)
        if not expert.changes(name):
            return _gathered(self._base, name, rows, width)
        if isinstance(expert, FullExpert):
            return _gathered(self._experts[expert.name], expert.tensors[name], rows, width)
        target = expert.adapter.targets[expert.tensors[name].target]
        shape = shape_of(expert, name)
        known = min(self._stored_rows(name), shape[0])
        before = torch.zeros(shape)
        before.view(shape[0], width)[:known] = self._base.read_flat(name, 0, known * width).view(known, width)
        change = expert.adapter.delta(target.name, lambda: before, shape).dense()
        return (before + change).view(shape[0], width)[torch.from_numpy(rows)]

    def _stored_rows(self, name: str) -> int:
        return self._tokens.stored.tensors[name].shape[0]

    def _mean(self, name: str) -> Tensor:
        """(width,) float64: mean of the base's rows that have a token."""
        width = self._width(name)
        rows = self._tokens.base[self._tokens.named & (self._tokens.base >= 0)]
        total = torch.zeros(width, dtype=torch.float64)
        for _, block in _blocks(rows, width):
            total += _gathered(self._base, name, block, width).to(torch.float64).view(-1, width).sum(0)
        return total / max(1, len(rows))


def _blocks(rows: Rows, width: int) -> Iterator[tuple[int, Rows]]:
    step = max(1, BLOCK_BYTES // max(1, 8 * width))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]


def _gathered(reader: Reader, name: str, rows: Rows, width: int) -> Tensor:
    """(rows, width) of a tensor; zeros where a row is −1.

    Neighbours are read at once. Rows in any other order are read in that of the file, so that rows which a
    tokenizer has permuted by a little are neighbours, too.
    """
    if len(rows) > 1 and bool((np.diff(rows) < 0).any()):
        order = np.argsort(rows, kind="stable")
        ordered = _gathered(reader, name, rows[order], width)
        placed = torch.empty_like(ordered)
        placed[torch.from_numpy(order)] = ordered
        return placed
    breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[:-1] < 0)) + 1
    bounds = [0, *breaks.tolist(), len(rows)]
    found: Tensor | None = None
    for first, last in pairwise(bounds):
        if first == last or rows[first] < 0:
            continue
        begin = int(rows[first])
        part = reader.read_flat(name, begin * width, (begin + last - first) * width)
        if found is None:
            found = part.new_zeros(len(rows), width) if last - first < len(rows) else part.view(-1, width)
        if last - first < len(rows):
            found[first:last] = part.view(-1, width)
    return reader.read_flat(name, 0, 0).new_zeros(len(rows), width) if found is None else found
