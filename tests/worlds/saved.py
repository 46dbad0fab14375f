"""Tiny models, and what save_pretrained makes of them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from optmerge.architectures import Architecture, resolve
from worlds.models import TINY

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """A model in memory, and what save_pretrained made of it."""

    model: PreTrainedModel
    config: dict[str, Any]
    on_disk: dict[str, Shape]

    @property
    def in_memory(self) -> dict[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    @property
    def architecture(self) -> Architecture:
        return resolve(self.config, self.on_disk)


@functools.cache
def save(name: str, folder: Path) -> Saved:
    torch.set_num_threads(1)
    model = TINY[name]()
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return Saved(model, json.loads((folder / "config.json").read_text()), shapes)
