from __future__ import annotations

import pytest
import torch

from optmerge.methods._solvers.iterations import Optimizer
from worlds.deltas import randn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_ends_where_torchs_adam_ends(dtype: torch.dtype) -> None:
    start, target = randn(7, 5, seed=0, dtype=dtype), randn(7, 5, seed=1, dtype=dtype)
    ended = Optimizer("adam", lr=0.03, steps=120).run(start, lambda x: 2 * (x - target))

    theirs = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theirs], lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        (theirs - target).square().sum().backward()
        optimizer.step()

    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(ended, theirs.detach(), rtol=tolerance, atol=tolerance)


def test_sgd_ends_where_torchs_sgd_ends() -> None:
    start, target = randn(4, 6, seed=0), randn(4, 6, seed=1)
    ended = Optimizer("sgd", lr=0.03, steps=80, momentum=0.9).run(start, lambda x: 2 * (x - target))

    theirs = start.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([theirs], lr=0.03, momentum=0.9)
    for _ in range(80):
        optimizer.zero_grad()
        (theirs - target).square().sum().backward()
        optimizer.step()

    torch.testing.assert_close(ended, theirs.detach(), rtol=1e-12, atol=1e-12)
