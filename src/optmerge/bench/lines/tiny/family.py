"""What the lines share: the shape of a tiny model, and the way from pictures and questions to its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optmerge.bench.lines.tiny.tokenizer import END
from optmerge.bench.tasks import SIDE

if TYPE_CHECKING:
    from PIL import Image

ASK = "assistant\n"
"""What follows `<|im_start|>` where the answer begins."""


@dataclass(frozen=True)
class TinySize:
    """Shape of a tiny model: 3.1 M parameters as it stands (patch in pixels, heads of 32).

    `merge`×`merge` patches become one image token. The real families merge 2×2; at 112 pixels a side a patch
    is as large as a letter, and a language model this small learns to read much sooner from one at a time.
    """

    patch: int = 14
    merge: int = 1
    vision_width: int = 160
    vision_layers: int = 4
    width: int = 192
    layers: int = 4
    heads: int = 6
    groups: int = 2
    mlp: int = 512

    @property
    def grid(self) -> int:
        """Image tokens along a side."""
        return SIDE // self.patch // self.merge


@dataclass(frozen=True)
class TinyFamily:
    """How tiny models of one of transformers' families are made, and how their prompts are laid out.

    Args:
        kind: transformers' `model_type`.
        special: tokens of the family besides the chat's own.
        extra: attribute → token, as the family's processor asks for them.
        template: chat template (Jinja); writes `mark` for an image.
        mark: one image in a chat, before it is opened out into tokens.
        image: the token of a piece of an image.
        open, close: tokens around the pieces that `mark` doesn't hold.
        axes: rotary positions of a token; 3 (time, row, column) number an image's pieces by their place.
        images: size → the family's PIL image processor.
        reload: settings of a saved image processor → the image processor.
        model: (size, tokenizer) → a randomly initialised model.
        merge: configuration → how many patches along a side become one image token.
        settings: (processor, size) → name → content of the JSON files `AutoProcessor` reads.
    """

    kind: str
    special: tuple[str, ...]
    extra: Mapping[str, str]
    template: str
    mark: str
    image: str
    open: str
    close: str
    axes: int
    images: Callable[[TinySize], Any]
    reload: Callable[[Mapping[str, Any]], Any]
    model: Callable[[TinySize, Any], Any]
    merge: Callable[[Any], int]
    settings: Callable[[Any, int], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Processor:
    """Pictures and questions → model inputs: the family's own processor without its video half (torchvision).

    Args:
        family: whose layout and files.
        tokenizer: a fast tokenizer with the family's tokens and template.
        image_processor: the family's PIL image processor.
        grid: image tokens along a side.
        merge: patches along a side of an image token.
    """

    family: TinyFamily
    tokenizer: Any
    image_processor: Any
    grid: int
    merge: int

    def pixels(self, images: Sequence[Image.Image | None]) -> dict[str, Tensor]:
        """The model's inputs for these pictures, in order."""
        batch = self.image_processor(images=list(images), return_tensors="pt")
        return {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}

    def prompt(self, question: str, turns: Sequence[tuple[str, str]] = ()) -> str:
        """The chat up to where the assistant answers: an image, earlier (question, answer) turns, this."""
        first, *later = [*(asked for asked, _ in turns), question]
        chat: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": first}]}
        ]
        for (_, answer), asked in zip(turns, later, strict=True):
            chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": asked}]
        text: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        view = self.family.open + self.family.image * self.grid**2 + self.family.close
        return text.replace(self.family.mark, view)

    def tokens(self, question: str) -> list[int]:
        """Token ids of `prompt(question)`."""
        return self.ids(self.prompt(question))

    def ids(self, text: str) -> list[int]:
        """Token ids of any text, special tokens included."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def inputs(self, questions: Sequence[str], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What `generate` takes for questions of equally many tokens about one picture each."""
        ids = torch.tensor([self.tokens(question) for question in questions])
        mask = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": mask, **self.kinds(ids), **self.pixels(images)}

    def kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens are pieces of an image, where the family numbers those by their place."""
        return {"mm_token_type_ids": (ids == self.piece).int()} if self.family.axes > 1 else {}

    @cached_property
    def piece(self) -> int:
        """Id of the token of a piece of an image."""
        found: int = self.tokenizer.convert_tokens_to_ids(self.family.image)
        return found

    @cached_property
    def head(self) -> list[int]:
        """Token ids of a chat up to the first question: role and image."""
        text = self.prompt("")
        return self.ids(text[: text.index(END)])

    @cached_property
    def head_positions(self) -> Tensor:
        """Rotary positions of `head`, (axis, token); what follows goes on after the largest."""
        places = torch.arange(len(self.head)).repeat(self.family.axes, 1)
        if self.family.axes > 1:
            start, pieces = self.head.index(self.piece), self.grid**2
            cell = torch.arange(pieces)
            rows_columns = torch.stack([cell * 0, cell // self.grid, cell % self.grid])
            places[:, start : start + pieces] = start + rows_columns
            places[:, start + pieces :] -= pieces - self.grid
        return places

    def turn(self, question: str, answer: str) -> tuple[list[int], int]:
        """Token ids of a turn after `head`, and how many of the last of them are to be learnt."""
        asked = self.ids(f"{question}{END}\n<|im_start|>{ASK}")
        told = self.ids(answer + END)
        return asked + told, len(told)

    def save(self, folder: Path) -> None:
        """Write the files the family's own `save_pretrained` writes, so that `AutoProcessor` loads them."""
        self.tokenizer.save_pretrained(folder)
        for name, content in self.family.settings(self.image_processor, self.grid**2).items():
            write_json(folder / name, content)


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
