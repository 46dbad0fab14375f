"""The first stage of a line: its vision tower learns what lies under each patch, before any words.

Tower and projector are trained together with a linear probe of every image token; the probe is then thrown
away. A picture has as many labels as patches, so minutes of this save hours in which answers alone would have
to teach the tower its letters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from optmerge.bench.lines.tiny.family import Processor
from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.sheets import INK_NAMES, NAMES, Mark, on_grid, sheet

if TYPE_CHECKING:
    from PIL import Image

_EDGE_WEIGHT = 3.0
Sheet = tuple["Image.Image", tuple[Mark, ...]]


class Sheets(Dataset[Sheet]):
    """The first `count` sheets of a seed, each drawn when it is asked for."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Sheet:
        return sheet(random.Random(f"sheet/{self.seed}/{row}"))


@dataclass(frozen=True)
class SheetBatch:
    """Sheets → pixels and the labels of their patches.

    Args:
        processor: processor of the model.
    """

    processor: Processor

    def __call__(self, sheets: Sequence[Sheet]) -> dict[str, Tensor]:
        """The pixels, and three labels of every patch, indexed by (sheet, image token, patch of the token).

        * `names`, `colours`: class of the mark on the patch, from 1 on; 0 where there is none;
        * `edges` (…, 4): left, top, right, bottom of that mark, from -1 to 1 across the picture.
        """
        marked = [[at for token in self._tokens(marks) for at in token] for _, marks in sheets]
        shape = (len(sheets), self.processor.grid**2, self.processor.merge**2)
        names = [[NAMES.index(mark.name) + 1 if mark else 0 for mark in each] for each in marked]
        colours = [[INK_NAMES.index(mark.colour) + 1 if mark else 0 for mark in each] for each in marked]
        edges = [[mark.box if mark else (0.0,) * 4 for mark in each] for each in marked]
        return {
            "names": torch.tensor(names).view(shape),
            "colours": torch.tensor(colours).view(shape),
            "edges": (torch.tensor(edges) / SIDE * 2 - 1).view(*shape, 4),
            **self.processor.pixels([image for image, _ in sheets]),
        }

    def _tokens(self, marks: Sequence[Mark]) -> list[list[Mark | None]]:
        """The mark on each patch of each image token, both row by row; None where there is none."""
        grid, merge = self.processor.grid, self.processor.merge
        cells = on_grid(marks, grid * merge)
        return [
            [
                cells[merge * row + down][merge * column + right]
                for down, right in product(range(merge), repeat=2)
            ]
            for row, column in product(range(grid), repeat=2)
        ]


def free_vision(model: Any) -> None:
    """Make tower and projector trainable, and freeze the language model, in place."""
    for name, weight in model.named_parameters():
        weight.requires_grad_("language_model" not in name)


def image_tokens(model: Any, **inputs: Tensor) -> Tensor:
    """The image tokens that the language model gets, (picture, token, width).

    Args:
        model: a model of either line.
        inputs: pixels of pictures of one size, as the model's processor gives them.
    """
    return torch.stack(list(model.get_image_features(**inputs).pooler_output))


class PatchProbe(nn.Module):
    """A model with a linear probe of its image tokens.

    Args:
        model: a model of either line; its tower and projector are trained, its language model is not.
        patches: patches of an image token.
    """

    def __init__(self, model: Any, patches: int) -> None:
        super().__init__()
        self.model, self.patches = model, patches
        free_vision(model)
        width = model.config.text_config.hidden_size
        self.name_head = nn.Linear(width, patches * (len(NAMES) + 1))
        self.colour_head = nn.Linear(width, patches * (len(INK_NAMES) + 1))
        self.edge_head = nn.Linear(width, patches * 4)

    def forward(
        self,
        names: Tensor,
        colours: Tensor,
        edges: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss, and the probe's outputs for every patch: logits of names and colours, and edges.

        Args:
            names: (sheet, token, patch), as `SheetBatch` gives them.
            colours: likewise.
            edges: (sheet, token, patch, 4).
            pixel_values: the pictures, as the model's family takes them.
            image_grid_thw: Qwen2-VL's sizes of the pictures in patches.
        """
        extra = {} if image_grid_thw is None else {"image_grid_thw": image_grid_thw}
        tokens = image_tokens(self.model, pixel_values=pixel_values, **extra)
        by_name, by_colour, by_edge = (
            head(tokens).float().unflatten(-1, (self.patches, -1))
            for head in (self.name_head, self.colour_head, self.edge_head)
        )
        marked = names > 0
        loss = cross_entropy(by_name.flatten(0, 2), names.flatten())
        loss = loss + cross_entropy(by_colour.flatten(0, 2), colours.flatten())
        loss = loss + _EDGE_WEIGHT * (by_edge - edges)[marked].abs().mean()
        return {"loss": loss, "names": by_name, "colours": by_colour, "edges": by_edge}

    def set_attn_implementation(self, name: str) -> None:
        """Choose the model's attention function, as transformers' models do."""
        self.model.set_attn_implementation(name)
