"""The one way a model is asked: greedily, prompts of equal length together.

Everything that asks a model calls `answers`: `optmerge ask`, the lines' tests and learning curves. Prompts
of equal length need no padding, so no answer depends on the batch around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ANSWER_TOKENS = 16
"""Tokens at which a benchmark's answer is cut off; the longest right answer, a box, has 9."""
WORKED_TOKENS = 22
"""Tokens at which an answer that follows its steps is cut off, as in the modality benchmark."""
CHAT_TOKENS = 128
"""Tokens at which an answer to a person's own question is cut off."""
BATCH = 128
"""Prompts answered together, at most."""

Inputs = Callable[[list[int], "Tensor"], Mapping[str, Any]]
"""(rows, their token ids) → what the model's `generate` takes beside `input_ids` and `attention_mask`."""


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    inputs: Inputs = lambda rows, ids: {},
    *,
    tokens: int = ANSWER_TOKENS,
    batch: int = BATCH,
) -> list[str]:
    """Greedy answers, one per prompt, without special tokens and outer blanks.

    Args:
        model: has transformers' `generate` and a `device`; in eval mode.
        tokenizer: decodes what the model says.
        prompts: token ids of each prompt.
        inputs: called once per batch with the batch's rows in `prompts` and their token ids (row, token) on
            the model's device; gives pixels, features, a cache of what has been read.
        tokens: at which an answer is cut off.
        batch: prompts answered together, at most.
    """
    import torch

    replies = [""] * len(prompts)
    with torch.inference_mode():
        for rows in equally_long([len(prompt) for prompt in prompts], batch):
            ids = torch.tensor([list(prompts[row]) for row in rows], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **inputs(rows, ids),
                do_sample=False,
                max_new_tokens=tokens,
            )
            texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                replies[row] = text.strip()
    return replies


def answers_to_inputs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, Any]],
    *,
    tokens: int = CHAT_TOKENS,
    batch: int = BATCH,
) -> list[str]:
    """Greedy answers to prompts that a processor has made, one per prompt.

    Prompts whose tensors have equal shapes, such as those of equally long questions about pictures of one
    size, are answered together; nothing is padded.

    Args:
        model: as in `answers`.
        tokenizer: as in `answers`.
        prompts: of each prompt its tensors as the model takes them, for one row; `input_ids` (1, token) among
            them. Whatever isn't a tensor is left out.
        tokens: at which an answer is cut off.
        batch: prompts answered together, at most.
    """
    import torch

    alike: dict[object, list[int]] = {}
    for row, prompt in enumerate(prompts):
        shapes = sorted((name, *each.shape, str(each.dtype)) for name, each in prompt.items())
        alike.setdefault(tuple(shapes), []).append(row)
    replies = [""] * len(prompts)
    for rows in alike.values():

        def inputs(chosen: list[int], ids: Tensor, rows: list[int] = rows) -> Mapping[str, Any]:
            beside = [name for name in prompts[rows[0]] if name not in ("input_ids", "attention_mask")]
            parts = {name: [prompts[rows[each]][name] for each in chosen] for name in beside}
            return {name: torch.cat(tensors).to(ids.device) for name, tensors in parts.items()}

        asked = [prompts[row]["input_ids"][0].tolist() for row in rows]
        said = answers(model, tokenizer, asked, inputs, tokens=tokens, batch=batch)
        for row, text in zip(rows, said, strict=True):
            replies[row] = text
    return replies


def equally_long(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Groups of rows whose lengths are equal, none larger than `size`; shorter rows come first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if not groups or len(groups[-1]) == size or lengths[groups[-1][0]] != lengths[row]:
            groups.append([])
        groups[-1].append(row)
    return groups
