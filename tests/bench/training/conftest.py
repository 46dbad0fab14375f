"""Training without what makes it slow and is no claim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from optmerge.bench.lines.tiny import tokenizer
from worlds import random_zoo

_convolved = torch.nn.Conv3d.forward


def _one_window(layer: torch.nn.Conv3d, values: torch.Tensor) -> torch.Tensor:
    if values.shape[2:] != layer.kernel_size:
        return _convolved(layer, values)
    flat = functional.linear(values.flatten(1), layer.weight.flatten(1), layer.bias)
    return flat[:, :, None, None, None]


@pytest.fixture(scope="package", autouse=True)
def patches_are_embedded_by_a_product() -> Iterator[None]:
    """Qwen2-VL embeds each patch by a convolution whose one window is the patch.

    That is a matrix product; PyTorch's three-dimensional convolution takes ten times as long backwards.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Conv3d, "forward", _one_window)
        yield


@pytest.fixture(scope="package", autouse=True)
def tokenizers_are_learnt_from_few_texts() -> Iterator[None]:
    """All of a line's take ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "texts", random_zoo.FEW_TEXTS)
        yield
