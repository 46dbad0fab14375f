"""Conversations → batches: every turn sees its picture and itself, and short ones share a row.

Turns about one picture are learnt as if each were the first: the picture's tokens are computed once, the
turns lie behind them, each at the positions right after the picture, and none sees another. That is what a
question meets when it is asked alone, and no turn can copy from the answer to another. Several pictures
share a row in the same way, so that hardly any token is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import Dataset

from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.training.conversations import Conversation, Diet, conversation

IGNORED = -100
"""Label of tokens that are given rather than predicted (torch's cross entropy skips it)."""
LONGEST = 176
"""Tokens of a conversation, so that all are about as long and few are padding; the picture takes 70."""
HIDDEN = torch.finfo(torch.bfloat16).min
"""Added to the attention where one token mustn't see another."""


class Conversations(Dataset[Conversation]):
    """The first `count` rows of a diet, each made when it is asked for."""

    def __init__(self, diet: Diet, count: int, *, seed: int) -> None:
        self.diet, self.count, self.seed = diet, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Conversation:
        return conversation(self.diet, self.seed, row)


@dataclass(frozen=True)
class Piece:
    """A conversation in tokens: of each its id, label, turn (0 is the picture's) and rotary positions."""

    ids: list[int]
    labels: list[int]
    turns: list[int]
    positions: Tensor


def piece(processor: Processor, talk: Conversation) -> Piece:
    """The tokens of one conversation, without the turns that would make it longer than `LONGEST`."""
    ids, turns = list(processor.head), [0] * len(processor.head)
    labels = [IGNORED] * len(ids)
    positions = [processor.head_positions]
    start = int(processor.head_positions.max()) + 1
    for rank, question in enumerate(talk.turns, 1):
        tokens, told = processor.turn(question.text, question.answers[0])
        if rank > 1 and len(ids) + len(tokens) > LONGEST:
            continue
        ids += tokens
        labels += [IGNORED] * (len(tokens) - told) + tokens[-told:]
        turns += [rank] * len(tokens)
        positions.append((start + torch.arange(len(tokens))).repeat(processor.family.axes, 1))
    return Piece(ids, labels, turns, torch.cat(positions, dim=1))


def rows(lengths: Sequence[int]) -> list[list[int]]:
    """Shares out pieces to rows as long as the longest: each to the first row with room, longest first."""
    room, found = max(lengths), list[list[int]]()
    left: list[int] = []
    for rank in sorted(range(len(lengths)), key=lambda rank: (-lengths[rank], rank)):
        fits = next((row for row, free in enumerate(left) if free >= lengths[rank]), None)
        if fits is None:
            found.append([])
            left.append(room)
            fits = len(left) - 1
        found[fits].append(rank)
        left[fits] -= lengths[rank]
    return found


@dataclass(frozen=True)
class Pack:
    """Batch of conversations as the model takes it; attention must add the mask, as `lean` and `eager` do."""

    processor: Processor

    def __call__(self, talks: Sequence[Conversation]) -> dict[str, Tensor]:
        """`input_ids`, `labels`, `position_ids`, `attention_mask` (row, 1, token, token) and the pixels."""
        pieces = [piece(self.processor, talk) for talk in talks]
        order, laid = lay_out(pieces, self.processor.tokenizer.pad_token_id)
        return {**laid, **self.processor.pixels([talks[rank].image for rank in order])}


def lay_out(pieces: Sequence[Piece], padding: int) -> tuple[list[int], dict[str, Tensor]]:
    """Pieces side by side in rows.

    Args:
        pieces: of a batch.
        padding: id of what fills a row.

    Returns:
        The pieces' ranks in the order in which they lie, row after row; and `input_ids`, `labels`,
        `position_ids`, `weights` in the loss, and `attention_mask` (row, 1, token, token).
    """
    order = rows([len(piece.ids) for piece in pieces])
    shape, axes = (len(order), max(len(piece.ids) for piece in pieces)), len(pieces[0].positions)
    ids, labels = torch.full(shape, padding), torch.full(shape, IGNORED)
    owner, turn = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(axes, *shape, dtype=torch.long)
    for row, ranks in enumerate(order):
        ends = accumulate(len(pieces[rank].ids) for rank in ranks)
        for rank, end in zip(ranks, ends, strict=True):
            part = slice(end - len(pieces[rank].ids), end)
            ids[row, part] = torch.tensor(pieces[rank].ids)
            labels[row, part] = torch.tensor(pieces[rank].labels)
            turn[row, part] = torch.tensor(pieces[rank].turns)
            owner[row, part] = rank
            positions[:, row, part] = pieces[rank].positions
    laid = {"input_ids": ids, "labels": labels, "attention_mask": _mask(owner, turn)}
    laid["weights"] = _weights(owner, turn, labels)
    laid["position_ids"] = positions if axes > 1 else positions[0]
    return [rank for ranks in order for rank in ranks], laid


def _weights(owner: Tensor, turn: Tensor, labels: Tensor) -> Tensor:
    """Weight of each learnt token: 1 / sqrt(tokens of its answer); 0 where nothing is learnt.

    Long captions would otherwise be all that counts: an answer is often a single token.
    """
    learnt = labels != IGNORED
    answer = torch.where(learnt, 1 + turn + owner * (int(turn.max()) + 1), 0)
    return torch.where(learnt, answer.flatten().bincount()[answer].rsqrt(), 0.0)


def _mask(owner: Tensor, turn: Tensor) -> Tensor:
    """What is added to the attention: 0 where a token sees itself, its picture, or its turn so far."""
    same = owner[:, :, None] == owner[:, None, :]
    same &= (turn[:, None, :] == 0) | (turn[:, :, None] == turn[:, None, :])
    return torch.where(same.tril(), 0.0, HIDDEN).to(torch.bfloat16)[:, None]
