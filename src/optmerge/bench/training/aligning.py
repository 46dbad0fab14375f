"""One language model for both lines: feature distillation from one vision tower to another.

InternVL and Qwen2-VL both read pictures with a Qwen2. The student takes over the language model that the
teacher has trained. Then the student's own tower and projector learn to give the image tokens that the
teacher gives for the same picture. One picture is 64 regression targets, so minutes of this replace about an
hour of learning to read from answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.training.conversations import Conversation
from optmerge.bench.training.patch_probe import free_vision, image_tokens


@dataclass(frozen=True)
class BothViews:
    """Conversations → their pictures alone, as student and teacher take them.

    Args:
        student: processor of the model that learns.
        teacher: processor of the model whose image tokens are the targets.
    """

    student: Processor
    teacher: Processor

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """The student's inputs under their own names, the teacher's with `teacher_` before them."""
        images = [each.image for each in conversations]
        targets = {f"teacher_{name}": value for name, value in self.teacher.pixels(images).items()}
        return {**self.student.pixels(images), **targets}


class Aligning(nn.Module):
    """A student with its teacher; the student's tower and projector are trained, nothing else.

    Args:
        model: the student.
        teacher: a model with as many image tokens of the same width, in the same order.
    """

    def __init__(self, model: Any, teacher: Any) -> None:
        super().__init__()
        self.model = model
        self._teacher = (teacher,)  # in a tuple, so that torch doesn't take the teacher for a part
        free_vision(model)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The loss: mean squared error of the image tokens over the mean square of the teacher's tokens."""
        own = {name: value for name, value in inputs.items() if not name.startswith("teacher_")}
        others = {name.removeprefix("teacher_"): inputs[name] for name in inputs.keys() - own.keys()}
        with torch.no_grad():
            targets = image_tokens(self._teacher[0], **others).float()
        error = image_tokens(self.model, **own) - targets
        return {"loss": error.square().mean() / targets.square().mean()}

    def set_attn_implementation(self, name: str) -> None:
        """Choose the student's attention function, as transformers' models do."""
        self.model.set_attn_implementation(name)


def take_over(model: Any, teacher: Any) -> None:
    """Copy the teacher's language model into a model of another family, in place.

    Args:
        model: the student; its language model has matrices of the same names and shapes.
        teacher: the model copied from; left as it is.
    """
    model.get_decoder().load_state_dict(teacher.get_decoder().state_dict())
