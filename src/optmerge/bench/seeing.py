"""The first thing a line learns: what lies under each patch of a sheet, before it learns to talk about it.

The vision tower and the projector are trained with a linear reading of every image token, which is then
thrown away. A picture teaches as many things as it has patches, so minutes of this spare the base hours in
which answers alone would have to teach the tower its letters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from optmerge.bench.drawing.sheets import INK_NAMES, NAMES, Mark, on_grid, sheet
from optmerge.bench.lines.family import Processor

if TYPE_CHECKING:
    from PIL import Image

PATCHES = 4
"""Patches of an image token, two by two."""
Sheet = tuple["Image.Image", tuple[Mark, ...]]


class Sheets(Dataset[Sheet]):
    """`count` sheets, each made when it is asked for."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Sheet:
        return sheet(random.Random(f"sheet/{self.seed}/{row}"))


@dataclass(frozen=True)
class SheetBatch:
    """Sheets → pixels and what is to be told of them."""

    processor: Processor

    def __call__(self, sheets: Sequence[Sheet]) -> dict[str, Tensor]:
        """The pixels; `names` and `colours` (sheet, image token, patch of the token), 0 for nothing."""
        told = torch.tensor([labels(marks, self.processor.grid) for _, marks in sheets])
        pixels = self.processor.pixels([image for image, _ in sheets])
        return {"names": told[..., 0], "colours": told[..., 1], **pixels}


def labels(marks: Sequence[Mark], grid: int) -> list[list[tuple[int, int]]]:
    """Name and colour (from 1 on; 0 for nothing) of each patch of each image token, both row by row.

    Args:
        marks: of a sheet.
        grid: image tokens along a side.
    """
    cells = on_grid(marks, 2 * grid)
    found = [[(0, 0)] * PATCHES for _ in range(grid * grid)]
    for row, column in product(range(2 * grid), repeat=2):
        if mark := cells[row][column]:
            told = NAMES.index(mark.name) + 1, INK_NAMES.index(mark.colour) + 1
            found[row // 2 * grid + column // 2][row % 2 * 2 + column % 2] = told
    return found


class Seeing(nn.Module):
    """A model with a linear reading of its image tokens.

    Args:
        model: of either line; its tower and projector are trained, nothing else.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for name, weight in model.named_parameters():
            weight.requires_grad_("language_model" not in name)
        width = model.config.text_config.hidden_size
        self.name_head = nn.Linear(width, PATCHES * (len(NAMES) + 1))
        self.colour_head = nn.Linear(width, PATCHES * (len(INK_NAMES) + 1))

    def forward(
        self,
        names: Tensor,
        colours: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss, and the logits of names and colours (sheet, token, patch, class)."""
        extra = {} if image_grid_thw is None else {"image_grid_thw": image_grid_thw}
        found = self.model.get_image_features(pixel_values, **extra).pooler_output
        tokens = torch.stack(list(found))
        logits = [
            head(tokens).float().unflatten(-1, (PATCHES, -1)) for head in (self.name_head, self.colour_head)
        ]
        loss = sum(
            nn.functional.cross_entropy(of.flatten(0, 2), told.flatten())
            for of, told in zip(logits, (names, colours), strict=True)
        )
        return {"loss": loss, "names": logits[0], "colours": logits[1]}

    def set_attn_implementation(self, name: str) -> None:
        """As the model's own."""
        self.model.set_attn_implementation(name)
