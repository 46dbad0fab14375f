"""Ask a tiny line's model, about pictures or about what a vision tower has made of them.

Merges change the language model and leave the vision tower as it is, so every model of a line sees the same:
the tower's output is kept for the next model with the same tower, which saves more than half of the work.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.lines._line import Answers
from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.tasks import Split, Task
from optmerge.evaluate import answering
from optmerge.evaluate.answering import ANSWER_TOKENS, BATCH
from optmerge.evaluate.questions import Item, Question

_KEPT = 24
"""Tasks' features in memory: two lines' tests, of 12 MB a task, and what scales are chosen on."""


@dataclass(frozen=True)
class TinyModel:
    """A tiny line's model that can be asked.

    Args:
        model: of transformers, in eval mode.
        processor: of the model.
    """

    model: Any
    processor: Processor

    def answers(self, tasks: Sequence[Task], split: Split, n: int) -> list[Answers]:
        """Greedy answers to the first `n` items of a split of each task; pictures are seen once a tower."""
        seen = [_vision().seen(self.model, self.processor, task, split, n) for task in tasks]
        questions = [question for each in seen for question in each.questions]
        features = torch.cat([each.features for each in seen])
        texts = iter(answers_to_seen(self.model, self.processor, questions, features))
        return [Answers(each.questions, tuple(next(texts) for _ in each.questions)) for each in seen]


def load(line: str, folder: Path, *, base: Path, device: str, dtype: str) -> TinyModel:
    """A tiny line's model; an adapter is added to the base's weights, as one would to use it.

    Args:
        line: whose family the model is of.
        folder: of a checkpoint, or of an adapter.
        base: folder of the line's base.
        device: of torch, where the model answers.
        dtype: name of a torch dtype.

    Raises:
        CheckpointError: there is no model in the folder, or one of another line.
    """
    there = {"device": device, "dtype": getattr(torch, dtype)}
    if not (folder / "adapter_config.json").is_file():
        return TinyModel(*tiny_models.load(line, folder, **there))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by an older name
        model, processor = tiny_models.load(line, base, adapter=folder, **there)
    return TinyModel(model.merge_and_unload().eval(), processor)


def answers(
    model: Any,
    processor: Processor,
    items: Sequence[Item],
    *,
    tokens: int = ANSWER_TOKENS,
    batch: int = BATCH,
) -> list[str]:
    """Greedy answers about pictures, in order.

    Args:
        model: of a tiny line, in eval mode; with an adapter on it or without.
        processor: of the model.
        items: questions with their pictures.
        tokens: at which an answer is cut off.
        batch: questions answered together.
    """

    def inputs(rows: list[int], ids: Tensor) -> dict[str, Tensor]:
        pixels = processor.pixels([items[row].image for row in rows])
        return {**processor.kinds(ids), **{name: each.to(ids.device) for name, each in pixels.items()}}

    prompts = [processor.tokens(item.question.text) for item in items]
    return answering.answers(model, processor.tokenizer, prompts, inputs, tokens=tokens, batch=batch)


def answers_to_seen(
    model: Any, processor: Processor, questions: Sequence[Question], features: Tensor
) -> list[str]:
    """Greedy answers about pictures that a vision tower has seen, in order.

    Args:
        model: of a tiny line, in eval mode.
        processor: of the model.
        questions: what is asked.
        features: what the model sees of each question's picture, as in `Seen`.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    side = processor.grid * processor.merge

    def inputs(rows: list[int], ids: Tensor) -> Mapping[str, Any]:
        pieces: Tensor | tuple[Tensor, ...] = features[rows]
        extra = processor.kinds(ids)
        if extra:  # positions in time and space need the grid, and a tensor per picture
            extra = {"image_grid_thw": torch.tensor([[1, side, side]] * len(ids), device=ids.device), **extra}
            pieces = tuple(pieces)
        return {
            **extra,
            "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pieces)},
        }

    prompts = [processor.tokens(question.text) for question in questions]
    return answering.answers(model, processor.tokenizer, prompts, inputs)


@dataclass(frozen=True)
class Seen:
    """Questions, and what a vision tower makes of their pictures.

    Args:
        questions: one a picture.
        features: (picture, piece of it, width of the language model), on the model's device.
    """

    questions: tuple[Question, ...]
    features: Tensor


class VisionCache:
    """What vision towers make of a task's pictures, by tower, task and split; the latest are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Seen] = OrderedDict()

    def seen(self, model: Any, processor: Processor, task: Task, split: Split, n: int) -> Seen:
        """The first `n` items of a split as this model sees them."""
        key = (_vision_hash(model), str(model.device), task.name, task.version, split, n)
        if key not in self._kept:
            self._kept[key] = _see(model, processor, list(task.items(split, n)))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


@cache
def _vision() -> VisionCache:
    """The cache of this process."""
    return VisionCache()


@torch.inference_mode()
def _see(model: Any, processor: Processor, items: Sequence[Item]) -> Seen:
    parts: list[Tensor] = []
    for start in range(0, len(items), BATCH):
        pixels = processor.pixels([item.image for item in items[start : start + BATCH]])
        there = {name: each.to(model.device) for name, each in pixels.items()}
        parts += list(model.get_image_features(**there, return_dict=True).pooler_output)
    return Seen(tuple(item.question for item in items), torch.stack(parts))


def _vision_hash(model: Any) -> str:
    """SHA-256 of every weight that isn't the language model's."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if "language_model" not in name and "lm_head" not in name:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
