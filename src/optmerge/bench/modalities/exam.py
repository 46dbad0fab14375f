"""The questions of a split, and how models are asked them.

What a model's towers make of a clip doesn't change with its language model, so the embeddings are worked out
once for all models with the same tower. The model that answers has the embeddings in place of its towers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from optmerge.bench.modalities import clips, words
from optmerge.bench.modalities.models import extracted
from optmerge.bench.modalities.readings import signal
from optmerge.bench.modalities.talks import parts
from optmerge.bench.modalities.templates import FAMILIES, ClipQuestion, Family, templates
from optmerge.bench.modalities.world import MODALITIES, Modality
from optmerge.bench.tasks import Split
from optmerge.evaluate.answering import WORKED_TOKENS, answers, equally_long
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.model import VALUES
from optmerge.omni.prompts import expand

BATCH = 256
"""Clips read together, and questions answered together."""
SEEN = 128
"""Clips seen or heard together."""
Needs = tuple[Modality, ...]


@dataclass(frozen=True)
class ExamItem:
    """A question about clip number `index` of a split."""

    index: int
    question: ClipQuestion


def families(needs: Needs) -> tuple[Family, ...]:
    """The families that have questions with these needs, in the order of the tables."""
    return tuple(
        each for each in FAMILIES if any((t.family, t.needs) == (each, needs) for t in templates().values())
    )


@cache
def items(split: Split, needs: Needs, n: int) -> tuple[ExamItem, ...]:
    """`n` questions with these needs, each about another clip, the families taking turns."""
    return tuple(each for each, _ in zip(_items(split, needs), range(n), strict=False))


def _items(split: Split, needs: Needs) -> Iterator[ExamItem]:
    index, turn, asked = 0, 0, families(needs)
    while True:
        rng = random.Random(f"exam/{split}/{needs}/{index}")
        fit = [t for t in templates().values() if (t.family, t.needs) == (asked[turn], needs)]
        question = rng.choice(fit).draw(rng, clips.content(split, index))
        if question is not None:
            yield ExamItem(index, question)
            turn = (turn + 1) % len(asked)
        index += 1


class SignalCache:
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
        """Embeddings of clips by the model's tower, index → (embeddings, width).

        Args:
            model: of the tower.
            processor: of the model.
            modality: of the tower.
            split: whose clips.
            indexes: of the clips.
            key: of the tower's weights.
        """
        missing = [each for each in dict.fromkeys(indexes) if (key, split, each) not in self._known]
        for start in range(0, len(missing), SEEN):
            chosen = missing[start : start + SEEN]
            shown = [signal(clips.content(split, each), modality) for each in chosen]
            found = model.towers[modality](extracted(processor, modality, shown))
            for each, embeddings in zip(chosen, found.unflatten(0, (len(chosen), -1)), strict=True):
                self._known[key, split, each] = embeddings
        return {each: self._known[key, split, each] for each in indexes}


class _Known(nn.Module):
    """Stands in the place of a tower: the tower's embeddings go in and come out."""

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(items, embeddings, width) → (all embeddings, width)."""
        return values.flatten(0, 1)


def without_towers(model: Any) -> Any:
    """The model with embeddings taken for the signals; changed in place."""
    if isinstance(model, OmniForConditionalGeneration):
        model.towers = nn.ModuleDict({modality: _Known() for modality in model.towers})
    return model


@dataclass(frozen=True)
class Prompt:
    """A prompt about a clip.

    Args:
        clip: number of the clip.
        opening: everything up to the question: the same for all questions about this clip.
        question: the question, and what follows it.
    """

    clip: int
    opening: str
    question: str


@torch.inference_mode()
def answer(
    model: Any, processor: Any, prompts: Sequence[Prompt], shown: Mapping[Modality, Mapping[int, Tensor]]
) -> list[str]:
    """Greedy answers; the opening of a prompt is read once for all questions about its clip.

    Openings of one length are read together, and questions of one length answered together: without padding
    no answer depends on the batch around it.

    Args:
        model: in eval mode; an omni model as `without_towers` leaves it, or a language model.
        processor: an `OmniProcessor`, or the language model's tokenizer.
        prompts: each with the same placeholders.
        shown: modality → clip → its embeddings.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    openings = _openings(processor, prompts, shown)
    replies = [""] * len(prompts)
    numbers = list(openings)
    for group in equally_long([len(openings[clip]) for clip in numbers], BATCH):
        chosen = [numbers[rank] for rank in group]
        given = torch.tensor([openings[clip] for clip in chosen])
        embeddings = {
            VALUES[modality]: torch.stack([found[clip] for clip in chosen])
            for modality, found in shown.items()
        }
        read = model(input_ids=given, **embeddings, use_cache=True, logits_to_keep=1).past_key_values
        place = {clip: row for row, clip in enumerate(chosen)}
        asked = [row for row, prompt in enumerate(prompts) if prompt.clip in place]
        said = answers(
            model,
            tokenizer,
            [openings[prompts[row].clip] + words.ids(tokenizer, prompts[row].question) for row in asked],
            partial(_begun, read, [place[prompts[row].clip] for row in asked]),
            tokens=WORKED_TOKENS,
            batch=BATCH,
        )
        for row, text in zip(asked, said, strict=True):
            replies[row] = text
    return replies


def _openings(
    processor: Any, prompts: Sequence[Prompt], shown: Mapping[Modality, Mapping[int, Tensor]]
) -> dict[int, list[int]]:
    """Clip → the tokens of its opening, a placeholder for each embedding."""
    tokenizer = getattr(processor, "tokenizer", processor)
    towers = getattr(processor, "towers", {})
    tokens: dict[str, str] = {modality: towers[modality].token for modality in shown}
    texts = {prompt.clip: prompt.opening for prompt in prompts}
    assert all(texts[prompt.clip] == prompt.opening for prompt in prompts)
    lengths: dict[str, list[int]] = {
        each: [len(found[clip]) for clip in texts] for each, found in shown.items()
    }
    expanded = expand(list(texts.values()), tokens, lengths)
    return {clip: words.ids(tokenizer, text) for clip, text in zip(texts, expanded, strict=True)}


def _begun(read: Any, places: Sequence[int], rows: Sequence[int], ids: Tensor) -> dict[str, Any]:
    """A cache of its own for some questions.

    Args:
        read: cache of the openings.
        places: of each question's opening in that cache.
        rows: the questions.
        ids: token ids of their prompts.
    """
    chosen = copy.copy(read)
    chosen.layers = [copy.copy(layer) for layer in read.layers]
    chosen.batch_select_indices(torch.tensor([places[row] for row in rows]))
    return {"past_key_values": chosen}


def prompt(
    split: Split, item: ExamItem, given: Sequence[Modality], *, described: Sequence[Modality] = ()
) -> Prompt:
    """What a model is asked about a clip.

    Args:
        split: of the clip.
        item: the question.
        given: modalities with a placeholder.
        described: modalities that the prompt describes in words.
    """
    content = clips.content(split, item.index)
    lines = [
        line
        for each in MODALITIES
        if each in (*given, *described)
        for line in parts(content, [each], each if each in given else None)
    ]
    return Prompt(item.index, words.opening(lines), words.asking(item.question.text))


def worked(said: str) -> tuple[str, str]:
    """The steps on the way to an answer, and the answer: what stands behind the last colon."""
    steps, _, answer = said.rpartition(":")
    return steps, answer.strip()


def score(said: str, question: ClipQuestion) -> float:
    """1 for the right answer, in any case and with any full stop; 0 otherwise. Steps don't count."""
    return float(worked(said)[1].rstrip(".").lower() in question.answers)
