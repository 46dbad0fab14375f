"""The one way a model is asked: greedily, prompts of equal length together.

Everything that asks a model calls `answers`: `optmerge ask`, the lines' tests and learning curves. Prompts
of equal length need no padding, so no answer depends on the batch around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from optmerge.errors import RunError

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

    Where memory runs out, the batch is halved for that prompt and all that follow.

    Args:
        model: has transformers' `generate` and a `device`; in eval mode.
        tokenizer: decodes what the model says.
        prompts: token ids of each prompt.
        inputs: called once per batch with the batch's rows in `prompts` and their token ids (row, token) on
            the model's device; gives pixels, features, a cache of what has been read.
        tokens: at which an answer is cut off.
        batch: prompts answered together, at most.

    Raises:
        RunError: there isn't memory for one prompt alone.
    """
    import torch

    replies = [""] * len(prompts)
    waiting = deque(equally_long([len(prompt) for prompt in prompts], batch))
    with torch.inference_mode():
        while waiting:
            rows = waiting.popleft()
            ids = torch.tensor([list(prompts[row]) for row in rows], device=model.device)
            out = _generated(model, ids, partial(inputs, rows, ids), tokens)
            if out is None:
                waiting = deque(_parts([rows, *waiting], len(rows) // 2))
                continue
            texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                replies[row] = text.strip()
    return replies


def _generated(
    model: Any, ids: Tensor, inputs: Callable[[], Mapping[str, Any]], tokens: int
) -> Tensor | None:
    """Prompts and answers, (row, token); None where memory doesn't suffice for several rows.

    Raises:
        RunError: memory doesn't suffice for one row.
    """
    import torch

    try:
        out: Tensor = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **inputs(),
            do_sample=False,
            max_new_tokens=tokens,
        )
    except RuntimeError as problem:
        from accelerate.utils.memory import should_reduce_batch_size

        if not should_reduce_batch_size(problem):
            raise
        if len(ids) == 1:
            raise RunError(
                f"there isn't enough memory on {ids.device} to answer a question of {ids.shape[1]} tokens; "
                "give a smaller picture, a lower precision, or another device"
            ) from problem
    else:
        return out
    if ids.is_cuda:  # only now does nothing hold the failed batch
        torch.cuda.empty_cache()
    return None


def _parts(groups: Iterable[list[int]], size: int) -> Iterator[list[int]]:
    """The groups in order, cut into such of `size` rows at most."""
    for rows in groups:
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


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
    replies = [""] * len(prompts)
    for rows in alike(prompts):

        def inputs(chosen: list[int], ids: Tensor, rows: list[int] = rows) -> Mapping[str, Any]:
            found = side_by_side([prompts[rows[each]] for each in chosen], ids.device)
            return {name: each for name, each in found.items() if name not in ("input_ids", "attention_mask")}

        asked = [prompts[row]["input_ids"][0].tolist() for row in rows]
        said = answers(model, tokenizer, asked, inputs, tokens=tokens, batch=batch)
        for row, text in zip(rows, said, strict=True):
            replies[row] = text
    return replies


def alike(prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Groups of rows whose tensors have equal shapes and types, each in order."""
    found: dict[object, list[int]] = {}
    for row, prompt in enumerate(prompts):
        shapes = sorted((name, *each.shape, str(each.dtype)) for name, each in prompt.items())
        found.setdefault(tuple(shapes), []).append(row)
    return list(found.values())


def side_by_side(prompts: Sequence[Mapping[str, Any]], device: Any) -> dict[str, Tensor]:
    """The tensors of prompts that are alike, joined along their first axis, on a device."""
    import torch

    return {name: torch.cat([prompt[name] for prompt in prompts]).to(device) for name in prompts[0]}


def equally_long(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Groups of rows whose lengths are equal, none larger than `size`; shorter rows come first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if not groups or len(groups[-1]) == size or lengths[groups[-1][0]] != lengths[row]:
            groups.append([])
        groups[-1].append(row)
    return groups
