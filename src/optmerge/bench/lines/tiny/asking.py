"""Ask a line's model a task's questions, greedily and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from optmerge.bench.lines.tiny.family import Processor
from optmerge.evaluate.questions import Question

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Asked:
    """A question about a picture."""

    image: Image.Image
    question: Question


@torch.inference_mode()
def answers(
    model: Any, processor: Processor, asked: Sequence[Asked], *, batch: int = 128, longest: int = 14
) -> list[str]:
    """Greedy answers, in order.

    Args:
        model: of either line, in eval mode; with an adapter on it or without.
        processor: of the model.
        asked: what to ask.
        batch: questions generated together.
        longest: answer length in tokens at which generation stops.
    """
    replies = [""] * len(asked)
    lengths = [len(processor.tokens(one.question.text)) for one in asked]
    # Questions of equal length need no padding, so an answer can't depend on the batch around it.
    for group in equally_long(lengths, batch):
        inputs = processor.inputs(
            [asked[row].question.text for row in group], [asked[row].image for row in group]
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        told = out[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(told, skip_special_tokens=True)
        for row, text in zip(group, texts, strict=True):
            replies[row] = text.strip()
    return replies


def equally_long(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Groups of rows whose lengths are equal, none larger than `size`."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if not groups or len(groups[-1]) == size or lengths[groups[-1][0]] != lengths[row]:
            groups.append([])
        groups[-1].append(row)
    return groups
