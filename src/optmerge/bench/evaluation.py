"""Ask a model questions, greedily and in batches, and say how sure the score is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optmerge.bench.models import Processor


@dataclass(frozen=True)
class Accuracy:
    """Mean score of n questions with its 95 % bootstrap interval, all in [0, 1]."""

    mean: float
    low: float
    high: float
    n: int


@torch.inference_mode()
def answer(
    model: Any, processor: Processor, pictures: Tensor, asked: Sequence[tuple[int, str]],
    *, batch: int = 256, longest: int = 6,
) -> list[str]:  # fmt: skip
    """Greedy answers to (row of `pictures`, question) pairs.

    Args:
        model: an image-text-to-text model in eval mode.
        processor: its processor.
        pictures: normalised images, (image, 3, height, width).
        asked: rows and questions.
        batch: questions generated together.
        longest: answer length in tokens at which generation stops.
    """
    replies: list[str] = [""] * len(asked)
    ids = [processor.tokens(text) for _, text in asked]
    # Questions of equal length need no padding, so the answer cannot depend on the batch around it.
    order = sorted(range(len(asked)), key=lambda row: (len(ids[row]), row))
    for group in batches(order, [len(tokens) for tokens in ids], batch):
        tokens = torch.tensor([ids[row] for row in group])
        views = torch.stack([pictures[asked[row][0]] for row in group]).to(model.dtype)
        out = model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=views,
            do_sample=False, max_new_tokens=longest,
        )  # fmt: skip
        texts = processor.tokenizer.batch_decode(out[:, tokens.shape[1] :], skip_special_tokens=True)
        for row, text in zip(group, texts, strict=True):
            replies[row] = text.strip()
    return replies


def batches(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut `order` into runs of equal length, none longer than `size`."""
    groups: list[list[int]] = []
    for row in order:
        if not groups or len(groups[-1]) == size or lengths[groups[-1][0]] != lengths[row]:
            groups.append([])
        groups[-1].append(row)
    return groups


def accuracy(scores: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Accuracy:
    """Mean and 95 % percentile bootstrap interval over questions."""
    values = np.asarray(scores, dtype=float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Accuracy(float(values.mean()), float(low), float(high), len(values))


def macro(groups: Sequence[Sequence[float]], *, resamples: int = 2000, seed: int = 0) -> Accuracy:
    """Mean of the groups' means with its interval; each group is resampled on its own."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(group, dtype=float) for group in groups]
    draws = [a[rng.integers(len(a), size=(resamples, len(a)))].mean(axis=1) for a in arrays]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    mean = float(np.mean([a.mean() for a in arrays]))
    return Accuracy(mean, float(low), float(high), sum(len(a) for a in arrays))
