"""Merged changes of stacked experts as factors of the whole stack, as PEFT's `target_parameters` has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_writer import StackFactors
from optmerge.checkpoints.adapters import TargetPiece
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.engine.output.truncation import truncated
from optmerge.engine.planning.stacks import StackPlace


def taken_apart(delta: Delta, place: StackPlace, rank: int | None) -> tuple[StackFactors, float]:
    """Factors of a stack that the base stores as one tensor, and the squared norm that `rank` left out.

    Args:
        delta: merged, (experts, rows, columns), or (rows, columns) of a stack of one.
        place: of the stack.
        rank: most of every expert; None for the exact rank.
    """
    matrices = [delta] if len(delta.shape) == 2 else [Dense(each) for each in delta.dense()]
    found = [truncated(each, rank, place.rank) for each in matrices]
    experts = [_turned(factors) if place.piece.transposed else factors for factors, _ in found]
    return _padded(experts, place.shape), sum(lost for _, lost in found)


def joined(parts: Sequence[tuple[StackPlace, LowRank]], rank: int | None) -> tuple[StackFactors, float]:
    """Factors of a stack whose experts the base stores one by one, and the squared norm that `rank` left out.

    Args:
        parts: exact factors of every merged tensor, with its place; at least one. What is missing of the
            stack has no change.
        rank: most of every expert; None for the exact rank.
    """
    shape = parts[0][0].shape
    of_expert = [[part for part in parts if part[0].piece.expert == index] for index in range(shape[0])]
    found = [_one_expert(each, shape, rank) for each in of_expert]
    return _padded([factors for factors, _ in found], shape), sum(lost for _, lost in found)


def _one_expert(
    parts: Sequence[tuple[StackPlace, LowRank]], shape: tuple[int, ...], rank: int | None
) -> tuple[LowRank, float]:
    """Factors of one expert, whose rows the base may store in several tensors."""
    _, outputs, inputs = shape
    parts = [part for part in parts if part[1].rank]
    if not parts:
        return LowRank(torch.zeros(outputs, 0), torch.zeros(0, inputs)), 0.0
    rows = inputs if parts[0][0].piece.transposed else outputs
    up = torch.cat([_in_rows(factors.up, place.piece, rows) for place, factors in parts], dim=1)
    down = torch.cat([factors.down for _, factors in parts])
    ranks = [place.rank for place, _ in parts if place.rank is not None]
    factors, lost = truncated(LowRank(up, down), rank, max(ranks, default=None))
    return (_turned(factors) if parts[0][0].piece.transposed else factors), lost


def _in_rows(up: Tensor, piece: TargetPiece, rows: int) -> Tensor:
    start, stop = piece.rows or (0, rows)
    return torch.nn.functional.pad(up, (0, 0, start, rows - stop))


def _padded(experts: Sequence[LowRank], shape: tuple[int, ...]) -> StackFactors:
    """Factors of every expert, padded with zeros to one rank, since PEFT has one for the stack."""
    count, outputs, inputs = shape
    rank = max(each.rank for each in experts)
    up, down = torch.zeros(count, outputs, rank), torch.zeros(count, rank, inputs)
    for index, each in enumerate(experts):
        up[index, :, : each.rank], down[index, : each.rank] = each.up, each.down
    return StackFactors(up, down)


def _turned(factors: LowRank) -> LowRank:
    return LowRank(factors.down.T, factors.up.T)
