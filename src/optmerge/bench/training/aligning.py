"""One language model for both lines: a tower learns to say what another tower says to it.

InternVL and Qwen2-VL both read pictures with a Qwen2. Here the full line takes over the language model that
the lora line has learnt, and its own tower and projector learn to give the image tokens that model
already understands. A picture teaches 64 vectors at once: this takes minutes, learning to read an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.training.conversations import Conversation
from optmerge.bench.training.seeing import free_sight, image_tokens


@dataclass(frozen=True)
class BothViews:
    """Conversations → the pictures alone, as either model takes them.

    Args:
        student: of the model that learns.
        teacher: of the model that is listened to; its inputs are called `teacher_…`.
    """

    student: Processor
    teacher: Processor

    def __call__(self, talks: Sequence[Conversation]) -> dict[str, Tensor]:
        """The inputs of both."""
        images = [talk.image for talk in talks]
        shown = {f"teacher_{name}": value for name, value in self.teacher.pixels(images).items()}
        return {**self.student.pixels(images), **shown}


class Aligning(nn.Module):
    """Two models; the first one's tower and projector are trained, nothing else.

    Args:
        model: that learns.
        teacher: with as many image tokens of the same width, in the same order.
    """

    def __init__(self, model: Any, teacher: Any) -> None:
        super().__init__()
        self.model = model
        self._teacher = (teacher,)  # in a tuple, so that it isn't trained, saved or counted as a part
        free_sight(model)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The loss: squared error of the image tokens over the mean square of the teacher's."""
        own = {name: value for name, value in inputs.items() if not name.startswith("teacher_")}
        shown = {name.removeprefix("teacher_"): inputs[name] for name in inputs.keys() - own.keys()}
        with torch.no_grad():
            aim = image_tokens(self._teacher[0], **shown).float()
        return {"loss": (image_tokens(self.model, **own) - aim).square().mean() / aim.square().mean()}

    def set_attn_implementation(self, name: str) -> None:
        """As the model's own."""
        self.model.set_attn_implementation(name)


def take_over(model: Any, teacher: Any) -> None:
    """Give a model the language model of another family: the same matrices, under the same names."""
    model.get_decoder().load_state_dict(teacher.get_decoder().state_dict())
