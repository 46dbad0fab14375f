"""Talks → batches: what is given is read once, the turns lie behind it and none sees another."""

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
from optmerge.bench.training.packing import IGNORED, Piece, lay_out
from optmerge.omni import OmniProcessor
from optmerge.omni.model import VALUES
from optmerge.omni.prompts import expand

LONGEST = 320
"""Tokens of a talk; the turns that don't fit are left out. All three descriptions take 80."""


@dataclass(frozen=True)
class Pack:
    """Batch of talks as a language model or an omni model takes it, with the mask that `lean` adds.

    Args:
        tokenizer: of all models.
        processor: of the omni model; None where everything is text.
    """

    tokenizer: Any
    processor: OmniProcessor | None = None

    def __call__(self, talks: Sequence[Talk]) -> dict[str, Tensor]:
        """`input_ids`, `labels`, `position_ids`, `attention_mask` (row, 1, token, token) and the signals."""
        order, laid = lay_out([self._piece(talk) for talk in talks], self.tokenizer.pad_token_id)
        shown = talks[0].shown
        if shown is None or self.processor is None:
            return laid
        items = [signal(talks[rank].content, shown) for rank in order]
        return {**laid, VALUES[shown]: extracted(self.processor, shown, items)}

    def _piece(self, talk: Talk) -> Piece:
        ids = words.ids(self.tokenizer, self._expanded(talk))
        labels, turns, positions = [IGNORED] * len(ids), [0] * len(ids), [torch.arange(len(ids))]
        start = len(ids)
        for rank, question in enumerate(talk.turns, 1):
            asked = words.ids(self.tokenizer, words.asking(question.text))
            told = words.ids(self.tokenizer, question.answers[0] + END)
            if rank > 1 and len(ids) + len(asked) + len(told) > LONGEST:
                continue
            ids += asked + told
            labels += [IGNORED] * len(asked) + told
            turns += [rank] * (len(asked) + len(told))
            positions.append(start + torch.arange(len(asked) + len(told)))
        return Piece(ids, labels, turns, torch.cat(positions)[None])

    def _expanded(self, talk: Talk) -> str:
        opening = words.opening(talk.parts)
        if self.processor is None:
            return opening
        towers = self.processor.towers
        tokens = {modality: str(tower.token) for modality, tower in towers.items()}
        [found] = expand([opening], tokens, {modality: [tower.tokens] for modality, tower in towers.items()})
        return found
