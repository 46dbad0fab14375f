"""A tower: an encoder, and a projector that turns the encoder's states into embeddings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from optmerge.omni.config import TowerConfig
from optmerge.omni.towers import tower_kind

_POOLS = {1: nn.functional.avg_pool1d, 2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


class Projector(nn.Module):
    """Linear layers with activations between them, from the encoder's width to the language model's."""

    def __init__(self, config: TowerConfig, width: int, out: int) -> None:
        super().__init__()
        widths = [width, *[out] * config.projector_depth]
        bias = config.projector_bias
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths))
        self.act = ACT2FN[config.projector_act]

    def forward(self, states: Tensor) -> Tensor:
        """(…, the encoder's width) → (…, the language model's width)."""
        first, *later = self.layers
        states = first(states)
        for layer in later:
            states = layer(self.act(states))
        return states


class Tower(nn.Module):
    """Encoder and projector of one modality.

    Args:
        config: configuration of the tower.
        out: width of the language model.
    """

    def __init__(self, config: TowerConfig, out: int) -> None:
        super().__init__()
        self.config, self.kind = config, tower_kind(config.kind)
        options: dict[str, Any] = {"attn_implementation": config._attn_implementation}
        if config.dtype is not None:
            options["dtype"] = config.dtype
        self.encoder = self.kind.build(config.encoder, **options)
        self.projector = Projector(config, config.encoder.hidden_size, out)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embeddings of some items, one item after the other.

        Args:
            values: (items, …), from the processor.
            mask: (items, steps), 1 for signal and 0 for padding; None where the kind needs none.

        Returns:
            Embeddings of all items in one tensor, (embeddings, width).
        """
        states = self.kind.features(self.config, self.encoder, values.to(self.encoder.dtype), mask)
        embeddings = self.projector(_pool(states, self.config.pooling or []).flatten(1, -2))
        lengths = self.lengths(mask, len(values))
        return torch.cat([item[:length] for item, length in zip(embeddings, lengths, strict=True)])

    def lengths(self, mask: Tensor | None, items: int) -> list[int]:
        """Number of embeddings of each item."""
        return self.kind.lengths(self.config, mask, items)


def _pool(states: Tensor, by: list[int]) -> Tensor:
    """Averages neighbours, (items, *grid, width) → (items, *pooled, width)."""
    if all(each == 1 for each in by):
        return states
    # In float32: on a CPU torch averages nothing shorter along three axes.
    pooled = _POOLS[len(by)](states.movedim(-1, 1).float(), tuple(by), ceil_mode=True)
    return pooled.movedim(1, -1).to(states.dtype)
