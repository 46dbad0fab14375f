"""Packing: conversations → batches in which several of them share a row.

Every turn about a picture is learnt as if that turn were the first. The picture's tokens are computed once;
the turns follow them in the row, each at the positions right after the picture, and the attention mask hides
every turn from the others. A question asked alone meets the same positions, and no turn can copy another's
answer. Several pictures share a row in the same way, so hardly any token is padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import Dataset

from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.training.conversations import Conversation, Curriculum, conversation

IGNORED = -100
"""Label of tokens that are given rather than predicted; torch's cross entropy skips the label."""
LONGEST = 176
"""Most tokens of a conversation; the picture takes 70. Lengths that differ little leave little padding."""
HIDDEN = torch.finfo(torch.bfloat16).min
"""Attention bias of a token that must not be seen."""


class Conversations(Dataset[Conversation]):
    """The first `count` rows of a curriculum, each drawn when it is asked for."""

    def __init__(self, curriculum: Curriculum, count: int, *, seed: int) -> None:
        self.curriculum, self.count, self.seed = curriculum, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Conversation:
        return conversation(self.curriculum, self.seed, row)


@dataclass(frozen=True)
class Piece:
    """A conversation in tokens.

    Args:
        ids: token ids.
        labels: token ids of the answers; `IGNORED` elsewhere.
        turns: number of each token's turn; 0 for what all turns see.
        positions: rotary positions, (axis, token).
    """

    ids: list[int]
    labels: list[int]
    turns: list[int]
    positions: Tensor


def piece(
    head: Sequence[int],
    head_positions: Tensor,
    turns: Iterable[tuple[Sequence[int], Sequence[int]]],
    *,
    longest: int,
) -> Piece:
    """A conversation's tokens, without the turns that would make it too long; the first is always there.

    Args:
        head: token ids of what all turns see.
        head_positions: their rotary positions, (axis, token); every turn goes on after the largest.
        turns: token ids of each question and of its answer, with the answer's end.
        longest: most tokens.
    """
    ids, labels, numbers = list(head), [IGNORED] * len(head), [0] * len(head)
    positions, start = [head_positions], int(head_positions.max()) + 1
    for number, (question, answer) in enumerate(turns, 1):
        length = len(question) + len(answer)
        if number > 1 and len(ids) + length > longest:
            continue
        ids += [*question, *answer]
        labels += [IGNORED] * len(question) + list(answer)
        numbers += [number] * length
        positions.append((start + torch.arange(length)).repeat(len(head_positions), 1))
    return Piece(ids, labels, numbers, torch.cat(positions, dim=1))


def rows(lengths: Sequence[int]) -> list[list[int]]:
    """First-fit decreasing bin packing into rows as long as the longest piece.

    Args:
        lengths: tokens of each piece.

    Returns:
        For each row, the indices of its pieces.
    """
    longest, found = max(lengths), list[list[int]]()
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        fits = next((row for row, free in enumerate(left) if free >= lengths[index]), None)
        if fits is None:
            found.append([])
            left.append(longest)
            fits = len(left) - 1
        found[fits].append(index)
        left[fits] -= lengths[index]
    return found


@dataclass(frozen=True)
class ConversationBatch:
    """Conversations → a batch for an attention that adds the mask, as `lean` and `eager` do.

    Args:
        processor: processor of the model.
    """

    processor: Processor

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """What `lay_out` gives, and the pixels in the order of the pictures' tokens."""
        pieces = [self.piece(each) for each in conversations]
        order, batch = lay_out(pieces, self.processor.tokenizer.pad_token_id)
        return {**batch, **self.processor.pixels([conversations[index].image for index in order])}

    def piece(self, conversation: Conversation) -> Piece:
        """The tokens of one conversation, at most `LONGEST`."""
        return piece(
            self.processor.head,
            self.processor.head_positions,
            (self._turn(turn.text, turn.answers[0]) for turn in conversation.turns),
            longest=LONGEST,
        )

    def _turn(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        tokens, learnt = self.processor.turn(question, answer)
        return tokens[:-learnt], tokens[-learnt:]


def lay_out(pieces: Sequence[Piece], padding: int) -> tuple[list[int], dict[str, Tensor]]:
    """Pieces side by side in rows.

    Args:
        pieces: the pieces of a batch.
        padding: id of the token that fills a row.

    Returns:
        The pieces' indices in the order in which they lie, row after row; and the tensors `input_ids`,
        `labels`, `weights` (row, token), `position_ids` ((row, token), or (axis, row, token) where there are
        several axes), and `attention_mask` (row, 1, token, token).
    """
    order = rows([len(piece.ids) for piece in pieces])
    shape, axes = (len(order), max(len(piece.ids) for piece in pieces)), len(pieces[0].positions)
    ids, labels = torch.full(shape, padding), torch.full(shape, IGNORED)
    owner, turn = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(axes, *shape, dtype=torch.long)
    for row, indices in enumerate(order):
        ends = accumulate(len(pieces[index].ids) for index in indices)
        for index, end in zip(indices, ends, strict=True):
            part = slice(end - len(pieces[index].ids), end)
            ids[row, part] = torch.tensor(pieces[index].ids)
            labels[row, part] = torch.tensor(pieces[index].labels)
            turn[row, part] = torch.tensor(pieces[index].turns)
            owner[row, part] = index
            positions[:, row, part] = pieces[index].positions
    batch = {"input_ids": ids, "labels": labels, "attention_mask": _mask(owner, turn)}
    batch["weights"] = _weights(owner, turn, labels)
    batch["position_ids"] = positions if axes > 1 else positions[0]
    return [index for indices in order for index in indices], batch


def _weights(owner: Tensor, turn: Tensor, labels: Tensor) -> Tensor:
    """Weight of each learnt token in the loss: 1 / sqrt(tokens of its answer); 0 where nothing is learnt.

    With equal weights long captions would dominate the loss: an answer is often a single token.
    """
    learnt = labels != IGNORED
    answer = torch.where(learnt, 1 + turn + owner * (int(turn.max()) + 1), 0)
    return torch.where(learnt, answer.flatten().bincount()[answer].rsqrt(), 0.0)


def _mask(owner: Tensor, turn: Tensor) -> Tensor:
    """Attention bias: 0 where a token sees itself, its picture, or its turn so far; `HIDDEN` elsewhere."""
    same = owner[:, :, None] == owner[:, None, :]
    same &= (turn[:, None, :] == 0) | (turn[:, :, None] == turn[:, None, :])
    return torch.where(same.tril(), 0.0, HIDDEN).to(torch.bfloat16)[:, None]
