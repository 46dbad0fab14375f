"""Talks → batches: what is given is read once, and the turns behind it are hidden from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.lines.tiny.tokenizer import END
from optmerge.bench.modalities import words
from optmerge.bench.modalities.models import extracted
from optmerge.bench.modalities.readings import signal
from optmerge.bench.modalities.talks import Talk
from optmerge.bench.training.packing import Piece, lay_out, piece
from optmerge.omni import OmniProcessor
from optmerge.omni.model import VALUES
from optmerge.omni.prompts import expand

LONGEST = 320
"""Most tokens of a talk; turns that don't fit are left out. All three descriptions take 80."""


@dataclass(frozen=True)
class TalkBatch:
    """Talks → a batch of a language model or an omni model, with the mask that `lean` adds.

    Args:
        tokenizer: tokenizer of all models.
        processor: processor of the omni model; None where everything is text.
    """

    tokenizer: Any
    processor: OmniProcessor | None = None

    def __call__(self, talks: Sequence[Talk]) -> dict[str, Tensor]:
        """What `lay_out` gives, and the signals of one modality in the order of their tokens."""
        order, batch = lay_out([self._piece(talk) for talk in talks], self.tokenizer.pad_token_id)
        shown = talks[0].shown
        if shown is None or self.processor is None:
            return batch
        items = [signal(talks[index].content, shown) for index in order]
        return {**batch, VALUES[shown]: extracted(self.processor, shown, items)}

    def _piece(self, talk: Talk) -> Piece:
        head = words.ids(self.tokenizer, self._expanded(talk))
        turns = (
            (
                words.ids(self.tokenizer, words.asking(turn.text)),
                words.ids(self.tokenizer, turn.answers[0] + END),
            )
            for turn in talk.turns
        )
        return piece(head, torch.arange(len(head))[None], turns, longest=LONGEST)

    def _expanded(self, talk: Talk) -> str:
        """The opening of the chat, with a placeholder for every embedding of the signal."""
        opening = words.opening(talk.parts)
        if self.processor is None:
            return opening
        towers = self.processor.towers
        tokens = {modality: str(tower.token) for modality, tower in towers.items()}
        [found] = expand([opening], tokens, {modality: [tower.tokens] for modality, tower in towers.items()})
        return found
