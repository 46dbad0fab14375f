"""Ask a model questions, greedily and in batches; what it sees of a picture is worked out once.

Merges change the language model and leave the eyes as they are, so every model of a line sees the same: the
vision tower's output is kept for the next model with the same tower, which saves more than half of the work.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.lines.tiny.asking import equally_long
from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.tasks._registry import Split, Task
from optmerge.bench.trials.questions import asked
from optmerge.evaluate.questions import Question

BATCH = 128
"""Questions answered together."""
LONGEST = 16
"""Tokens of an answer at which generation stops; the longest right one, a box, has 9."""
_KEPT = 24
"""Albums in memory: two lines' tests, of 12 MB a task, and what scales are chosen on."""


@dataclass(frozen=True)
class Album:
    """Questions and what a vision tower makes of their pictures.

    Args:
        questions: one a picture.
        features: (picture, piece of it, width of the language model), float32.
    """

    questions: tuple[Question, ...]
    features: Tensor


class Eyes:
    """Albums by vision tower, task and split; the latest are kept."""

    def __init__(self) -> None:
        self._albums: OrderedDict[tuple[object, ...], Album] = OrderedDict()

    def album(self, model: Any, processor: Processor, task: Task, split: Split, n: int) -> Album:
        """The first `n` questions of a split as this model sees them."""
        key = (_vision_hash(model), task.name, task.version, split, n)
        if key not in self._albums:
            self._albums[key] = _album(model, processor, task, split, n)
            while len(self._albums) > _KEPT:
                self._albums.popitem(last=False)
        self._albums.move_to_end(key)
        return self._albums[key]


@torch.inference_mode()
def _album(model: Any, processor: Processor, task: Task, split: Split, n: int) -> Album:
    everything, parts = list(asked(task, split, n)), []
    for start in range(0, n, BATCH):
        pixels = processor.pixels([each.image for each in everything[start : start + BATCH]])
        parts += list(model.get_image_features(**pixels, return_dict=True).pooler_output)
    return Album(tuple(each.question for each in everything), torch.stack(parts))


def _vision_hash(model: Any) -> str:
    """Of every weight that isn't the language model's."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if "language_model" not in name and "lm_head" not in name:
            digest.update(name.encode())
            digest.update(weight.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.inference_mode()
def answer(model: Any, processor: Processor, texts: Sequence[str], features: Tensor) -> list[str]:
    """Greedy answers, one per text.

    Prompts of one length are answered together: without padding no answer depends on the batch around it.

    Args:
        model: of a line, in eval mode.
        processor: its processor.
        texts: questions.
        features: what the model sees of each question's picture, as in `Album`.
    """
    prompts = [processor.tokens(text) for text in texts]
    replies = [""] * len(texts)
    for rows in equally_long([len(prompt) for prompt in prompts], BATCH):
        ids = torch.tensor([prompts[row] for row in rows])
        for row, reply in zip(rows, _generate(model, processor, ids, features[rows]), strict=True):
            replies[row] = reply
    return replies


def _generate(model: Any, processor: Processor, ids: Tensor, features: Tensor) -> list[str]:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pieces: Tensor | tuple[Tensor, ...] = features
    if processor.family.axes > 1:  # positions in time and space need the grid, and a tensor per picture
        side = processor.grid * processor.merge
        grid = torch.tensor([[1, side, side]]).repeat(len(ids), 1)
        inputs |= {"image_grid_thw": grid, "mm_token_type_ids": (ids == processor.piece).int()}
        pieces = tuple(features)
    said = model.generate(
        **inputs,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=pieces)},
        do_sample=False,
        max_new_tokens=LONGEST,
    )
    texts: list[str] = processor.tokenizer.batch_decode(said[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
