"""The questions of a split, and how models are asked them.

What a model sees and hears of a clip doesn't change with its language model, so it is worked out once for
all models with the same tower; what answers is the model itself, with that in place of its towers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from optmerge.bench.asking import equally_long
from optmerge.bench.tasks.registry import Split
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.bench import clips, words
from optmerge.omni.bench.asking import FAMILIES, Asked, Family, templates
from optmerge.omni.bench.models import extracted
from optmerge.omni.bench.readings import signal
from optmerge.omni.bench.talks import parts
from optmerge.omni.bench.world import MODALITIES, Modality
from optmerge.omni.model import VALUES
from optmerge.omni.prompts import expand

BATCH = 128
"""Prompts answered together, and clips seen or heard together."""
LONGEST = 22
"""Tokens of an answer at which generation stops."""
Needs = tuple[Modality, ...]


@dataclass(frozen=True)
class Item:
    """A question about clip number `index` of a split."""

    index: int
    question: Asked


def families(needs: Needs) -> tuple[Family, ...]:
    """Those that have questions with these needs, in the order of the tables."""
    return tuple(
        each for each in FAMILIES if any((t.family, t.needs) == (each, needs) for t in templates().values())
    )


@cache
def items(split: Split, needs: Needs, n: int) -> tuple[Item, ...]:
    """`n` questions with these needs, each about another clip, the families taking turns."""
    return tuple(each for each, _ in zip(_items(split, needs), range(n), strict=False))


def _items(split: Split, needs: Needs) -> Iterator[Item]:
    index, turn, asked = 0, 0, families(needs)
    while True:
        rng = random.Random(f"exam/{split}/{needs}/{index}")
        fit = [t for t in templates().values() if (t.family, t.needs) == (asked[turn], needs)]
        question = rng.choice(fit).draw(rng, clips.content(split, index))
        if question is not None:
            yield Item(index, question)
            turn = (turn + 1) % len(asked)
        index += 1


class Senses:
    """Embeddings of clips by tower: worked out when first asked for, and kept."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], Tensor] = {}

    @torch.inference_mode()
    def of(
        self,
        model: OmniForConditionalGeneration,
        processor: OmniProcessor,
        modality: Modality,
        split: Split,
        indexes: Sequence[int],
        key: str,
    ) -> dict[int, Tensor]:
        """What the model's tower makes of clips, index → (embeddings, width).

        Args:
            model: of the tower.
            processor: of the model.
            modality: of the tower.
            split: whose clips.
            indexes: of the clips.
            key: of the tower's weights.
        """
        missing = [each for each in dict.fromkeys(indexes) if (key, split, each) not in self._known]
        for start in range(0, len(missing), BATCH):
            chosen = missing[start : start + BATCH]
            shown = [signal(clips.content(split, each), modality) for each in chosen]
            found = model.towers[modality](extracted(processor, modality, shown))
            for each, embeddings in zip(chosen, found.unflatten(0, (len(chosen), -1)), strict=True):
                self._known[key, split, each] = embeddings
        return {each: self._known[key, split, each] for each in indexes}


class _Known(nn.Module):
    """In the place of a tower: its embeddings go in and come out."""

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(items, embeddings, width) → (all embeddings, width)."""
        return values.flatten(0, 1)


def answering(model: Any) -> Any:
    """The model with embeddings taken for the signals; changed in place."""
    if isinstance(model, OmniForConditionalGeneration):
        model.towers = nn.ModuleDict({modality: _Known() for modality in model.towers})
    return model


@torch.inference_mode()
def answer(
    model: Any, processor: Any, prompts: Sequence[str], shown: Mapping[Modality, Sequence[Tensor]]
) -> list[str]:
    """Greedy answers.

    Prompts of one length are answered together: without padding no answer depends on the batch around it.

    Args:
        model: in eval mode; an omni model as `answering` leaves it, or a language model.
        processor: an `OmniProcessor`, or the language model's tokenizer.
        prompts: each with the same placeholders.
        shown: modality → of each prompt its embeddings.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    towers = getattr(processor, "towers", {})
    tokens: dict[str, str] = {modality: towers[modality].token for modality in shown}
    lengths: dict[str, list[int]] = {each: [len(one) for one in found] for each, found in shown.items()}
    ids = [words.ids(tokenizer, text) for text in expand(prompts, tokens, lengths)]
    replies = [""] * len(prompts)
    for rows in equally_long([len(each) for each in ids], BATCH):
        given = torch.tensor([ids[row] for row in rows])
        seen = {
            VALUES[modality]: torch.stack([found[row] for row in rows]) for modality, found in shown.items()
        }
        out = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), **seen, do_sample=False,
            max_new_tokens=LONGEST,
        )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, given.shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            replies[row] = text.strip()
    return replies


def prompt(split: Split, item: Item, given: Sequence[Modality], *, told: Sequence[Modality] = ()) -> str:
    """What a model is asked: placeholders of what is given, descriptions of what is told, the question."""
    content = clips.content(split, item.index)
    lines = [
        line
        for each in MODALITIES
        if each in (*given, *told)
        for line in parts(content, [each], each if each in given else None)
    ]
    return words.opening(lines) + words.asking(item.question.text)


def score(said: str, question: Asked) -> float:
    """1 for the right answer, in any case and with any full stop; 0 otherwise.

    Steps on the way to it, before a colon, don't count.
    """
    answer = said.rpartition(":")[2]
    return float(answer.strip().rstrip(".").lower() in question.answers)
