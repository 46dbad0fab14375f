"""How far the experts moved, from a few KiB of each tensor: cheap for models of any size, and no proof.

A full fine-tune moves nearly every entry, which any sample sees. What may change in a few rows only (tables
of tokens, stacked experts) can look unchanged here; the run reads that whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from optmerge.checkpoints.reader import Reader
from optmerge.engine.changes import sums_of_squares
from optmerge.engine.plan import Action, Squared, Squares, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, FullExpert, Inputs

SPOTS, SPOT_ENTRIES = 4, 512
MOST_SPOTS = 8000
"""Reads of each model, where it has so many tensors that four each would be more."""

SWAPPED = 64
"""Entries that are read one by one of a tensor that an expert stores with its last two axes swapped."""

TARGETS = 4
"""LoRA deltas that are multiplied out, of each adapter and component."""


def sample_squares(tensors: Sequence[TensorPlan], inputs: Inputs) -> Squared:
    """How far each expert seems to have moved each tensor that it holds, tied names left out."""
    own = [tensor for tensor in tensors if tensor.action is not Action.ALIAS]
    spots = max(1, min(SPOTS, MOST_SPOTS // max(1, len(own))))
    found: dict[str, dict[str, Squares]] = {expert.name: {} for expert in inputs.experts}
    with ExitStack() as stack:
        stored = inputs.base.checkpoint if inputs.tokens is None else inputs.tokens.stored
        base = stack.enter_context(stored.reader())
        readers = {expert.name: stack.enter_context(expert.open()) for expert in inputs.experts}
        for tensor in own:
            changing = [expert for expert in inputs.experts if expert.changes(tensor.name)]
            if not changing:
                continue
            if inputs.tokens is not None and tensor.name in inputs.tokens.tensors:
                for expert in changing:  # rows that lie in different places
                    found[expert.name][tensor.name] = Squares(None, 0.0, False)
                continue
            spans = list(_spans(math.prod(tensor.shape), spots))
            before = _read(base, tensor.name, spans)
            for expert in changing:
                found[expert.name][tensor.name] = _squares(
                    expert, tensor, readers[expert.name], before, spans
                )
    for expert in inputs.experts:
        if isinstance(expert, AdapterExpert):
            _multiply_out(expert, own, found[expert.name])
    return found


def _spans(size: int, spots: int) -> Iterator[tuple[int, int]]:
    """Ranges of a flattened tensor, evenly spaced, beginning and end among them; all of a small one."""
    if size <= spots * SPOT_ENTRIES:
        yield 0, size
        return
    for index in range(spots):
        start = (size - SPOT_ENTRIES) * index // max(1, spots - 1)
        yield start, start + SPOT_ENTRIES


def _read(reader: Reader, name: str, spans: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([reader.read_flat(name, *span) for span in spans])


def _squares(
    expert: AnyExpert, tensor: TensorPlan, reader: Reader, before: Tensor, spans: Sequence[tuple[int, int]]
) -> Squares:
    own = expert.stored_whole(tensor.name)
    size = math.prod(tensor.shape)
    share, exact = size / max(1, before.numel()), before.numel() == size
    if own is None:
        _, base = sums_of_squares(before, before)
        factors = isinstance(expert, AdapterExpert) and expert.has_factors_alone(tensor.name)
        return Squares(None, base * share, exact and factors)
    if isinstance(expert, FullExpert) and tensor.name in expert.swapped:
        places = [at for first, last in spans for at in range(first, last)][
            :: max(1, before.numel() // SWAPPED)
        ]
        before = before[:: max(1, before.numel() // SWAPPED)].contiguous()
        share, exact = size / len(places), len(places) == size
        after = _read(reader, own, [(at, at + 1) for at in (_swapped(each, tensor.shape) for each in places)])
    else:
        after = _read(reader, own, spans)
    change, base = sums_of_squares(before, after)
    return Squares(None if change is None else change * share, base * share, exact)


def _swapped(place: int, shape: Sequence[int]) -> int:
    """Flat index of an entry where the last two axes are stored the other way round."""
    rows, columns = shape[-2:]
    matrix, inside = divmod(place, rows * columns)
    row, column = divmod(inside, columns)
    return matrix * rows * columns + column * rows + row


def _multiply_out(expert: AdapterExpert, tensors: Sequence[TensorPlan], found: dict[str, Squares]) -> None:
    """Fills in what factors say: some targets of each component, the others as far as those on average."""
    groups: dict[str, list[TensorPlan]] = {}
    for tensor in tensors:
        if expert.changes(tensor.name) and expert.has_factors_alone(tensor.name):
            groups.setdefault(tensor.component, []).append(tensor)
    for group in groups.values():
        chosen = group[:: max(1, len(group) // TARGETS)][:TARGETS]
        changes = {tensor.name: _square(expert, tensor) for tensor in chosen}
        mean = math.fsum(changes.values()) / sum(max(1, math.prod(tensor.shape)) for tensor in chosen)
        for tensor in group:
            change = changes.get(tensor.name, mean * math.prod(tensor.shape))
            one = found[tensor.name]
            exact = one.exact and tensor.name in changes
            found[tensor.name] = Squares(change if math.isfinite(change) else None, one.base, exact)


def _square(expert: AdapterExpert, tensor: TensorPlan) -> float:
    """‖τ‖² of a delta that is factors, for which the base isn't asked."""
    return expert.delta(tensor.name, lambda: torch.zeros(()), tensor.shape).squared_norm()
