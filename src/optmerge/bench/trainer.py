"""transformers' Trainer, set up so that a run depends on its seed alone and goes on after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from optmerge.bench.models import END, Processor

IGNORED = -100
"""Label of tokens that are given rather than predicted (torch's cross entropy skips it)."""


@dataclass(frozen=True)
class Example:
    """An image (its row in the picture tensor), what is asked about it and what to answer."""

    image: int
    text: str
    answer: str


@dataclass(frozen=True)
class Stage:
    """One run of the Trainer: how many examples, how fast, and which parts stay as they are."""

    name: str
    examples: int
    learning_rate: float
    batch: int = 64
    weight_decay: float = 0.01
    warmup: float = 0.05
    keep_every: int = 500
    augment: bool = True
    frozen: tuple[str, ...] = ()


class Drawn(Dataset[dict[str, Tensor]]):
    """`count` examples drawn from weighted sources; the same (sources, seed) give the same examples.

    Args:
        pictures: normalised images, (image, 3, height, width).
        sources: lists of examples and the share of draws each gets.
        processor: turns questions into tokens.
        augment: turn and mirror each picture at random, which changes no colour and no shape.
    """

    def __init__(
        self,
        pictures: Tensor,
        sources: Sequence[tuple[Sequence[Example], float]],
        processor: Processor,
        count: int,
        *,
        seed: int,
        augment: bool = False,
    ) -> None:
        self.pictures, self.processor = pictures, processor
        rng = np.random.default_rng(seed)
        shares = np.array([share for _, share in sources], dtype=float)
        source = rng.choice(len(sources), size=count, p=shares / shares.sum())
        place = rng.random(count)
        self.drawn = [sources[s][0][int(p * len(sources[s][0]))] for s, p in zip(source, place, strict=True)]
        self.turns = rng.integers(8, size=count) if augment else np.zeros(count, dtype=int)
        self.known: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        example, turn = self.drawn[row], int(self.turns[row])
        picture = self.pictures[example.image].float().rot90(turn % 4, (1, 2))
        ids, labels = self.tokens(example.text, example.answer)
        return {"pixel_values": picture.flip(2) if turn >= 4 else picture, "input_ids": ids, "labels": labels}

    def tokens(self, text: str, answer: str) -> tuple[Tensor, Tensor]:
        """Token ids of question and answer, and the labels: the answer and the end of the turn."""
        if (text, answer) not in self.known:
            prompt = self.processor.tokens(text)
            reply = self.processor.tokenizer(answer + END, add_special_tokens=False)["input_ids"]
            labels = [IGNORED] * len(prompt) + reply
            self.known[text, answer] = torch.tensor(prompt + reply), torch.tensor(labels)
        return self.known[text, answer]


@dataclass(frozen=True)
class Collate:
    """Batch of examples, padded on the right with `pad`."""

    pad: int

    def __call__(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Stack the pictures, pad the tokens."""
        ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True, padding_value=self.pad)
        labels = pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED)
        pictures = torch.stack([row["pixel_values"] for row in rows])
        return {"input_ids": ids, "labels": labels, "attention_mask": (ids != self.pad).long(),
                "pixel_values": pictures}  # fmt: skip


def fit(
    model: Any,
    data: Drawn,
    stage: Stage,
    folder: Path,
    *,
    seed: int,
    resume: bool = True,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train `model` in place on `data`.

    Args:
        model: starts as it is; comes back in eval mode.
        data: what it sees, in order.
        stage: how fast, how often a checkpoint is kept, and what stays frozen.
        folder: gets the checkpoints; a killed run goes on from the last one.
        seed: of the Trainer.
        resume: False starts anew whatever `folder` holds.
        callbacks: `TrainerCallback`s.
    """
    from transformers import TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    for name, weight in model.named_parameters():
        weight.requires_grad_(not any(part in name for part in stage.frozen))
    steps = -(-len(data) // stage.batch)
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, seed=seed, data_seed=seed, report_to=[], disable_tqdm=True,
        num_train_epochs=1, per_device_train_batch_size=stage.batch, learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay, warmup_steps=int(stage.warmup * steps), lr_scheduler_type="cosine",
        adam_beta2=0.98, save_steps=stage.keep_every, save_total_limit=1, logging_steps=100,
        remove_unused_columns=False, train_sampling_strategy="sequential", dataloader_num_workers=0,
    )  # fmt: skip
    collate = Collate(data.processor.tokenizer.pad_token_id)
    trainer = _trainer_class()(model, arguments, collate, train_dataset=data, callbacks=list(callbacks))
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    model.train()
    trainer.train(resume_from_checkpoint=last)
    return model.eval()


def _trainer_class() -> Any:
    """Trainer whose checkpoints come back whole.

    transformers 5.23 saves InternVL under other tensor names than the live model has, and its Trainer,
    loading by live name, warns and goes on with fresh weights; `from_pretrained` knows the names.
    """
    from transformers import Trainer

    class Resuming(Trainer):  # type: ignore[misc]
        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
            self.model.load_state_dict(saved.state_dict())

    return Resuming
