"""First weights for narrow models.

transformers draws every weight with a deviation of 0.02, which suits layers a thousand wide. In layers of 200
that leaves attention uniform and updates faint, and training dwells on plateaus; here every layer keeps the
variance of what it reads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_INTO_THE_STREAM = ("o_proj", "down_proj", "projection_layer", "attn.proj", "fc2")
"""What is added to the residual stream; drawn smaller, since every layer adds."""


@torch.no_grad()
def draw(model: Any, *, layers: int) -> None:
    """Draw a model's weights anew from torch's generator.

    Args:
        model: of either line; changed in place. Vectors keep transformers' values.
        layers: of a tower or of the language model.
    """
    for name, weight in model.named_parameters():
        if "position_embeddings" in name:
            weight[0, 1:] = waves(math.isqrt(weight.shape[1] - 1), weight.shape[2])  # the first isn't a patch
        elif weight.dim() >= 2 and "cls_token" not in name:
            inputs = weight[0].numel()
            adds = any(part in name for part in _INTO_THE_STREAM)
            weight.normal_(std=(inputs * (2 * layers if adds else 1)) ** -0.5)


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column, (side², width): near patches have near values.

    Args:
        side: patches along a side.
        width: of the embedding; a multiple of 4.
    """
    rates = 10_000.0 ** -(torch.arange(width // 4) / (width // 4)) * math.pi
    at = torch.arange(side * side)
    angles = [place[:, None] * rates * 7 / side for place in (at // side, at % side)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
