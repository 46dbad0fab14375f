"""How much is held in memory at a time: what a budget allows, decided before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from optmerge.engine.cost import SLICE_ELEMENTS
from optmerge.engine.plan import Plan
from optmerge.engine.sizes import parse_bytes
from optmerge.errors import RecipeError

FEWEST_ELEMENTS = 1 << 12


@dataclass(frozen=True)
class Budget:
    """What may be in memory at a time.

    Args:
        slice_elements: of a tensor that is merged in slices, per worker.
        whole_tensors: that are solved side by side.
    """

    slice_elements: int
    whole_tensors: int


def fit_memory(plan: Plan, memory: str | int | None) -> Budget:
    """The most that a budget allows for; never changes a byte of the result.

    Raises:
        RecipeError: some tensor needs more, even alone.
    """
    workers = torch.get_num_threads()
    if memory is None:
        return Budget(SLICE_ELEMENTS, workers)
    budget, cost = parse_bytes(memory, "--memory"), plan.cost
    if cost.whole_tensor_bytes > budget:
        raise RecipeError(
            "the memory budget can't be kept",
            where="--memory",
            got=f"{budget / 2**20:.1f} MiB",
            expected=f"at least {math.ceil(cost.whole_tensor_bytes / 2**20)} MiB, for {cost.peak_tensor}",
            hint="raise it, or give large tensors an elementwise method by a rule",
        )
    sliced = max(1, cost.slice_bytes * workers)
    return Budget(
        slice_elements=max(FEWEST_ELEMENTS, min(SLICE_ELEMENTS, SLICE_ELEMENTS * budget // sliced)),
        whole_tensors=max(1, min(workers, budget // max(1, cost.whole_tensor_bytes))),
    )
