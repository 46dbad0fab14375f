"""How much is held in memory at a time: what a budget allows, decided before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from optmerge.engine.plan import Plan
from optmerge.engine.planning.cost import AROUND_BYTES, SLICE_ELEMENTS
from optmerge.engine.planning.request import parse_bytes
from optmerge.errors import RecipeError

FEWEST_ELEMENTS = 1 << 12
INTERPRETER_BYTES = 180 << 20
"""What Python and torch hold before anything is done, where it can't be asked (measured on Linux)."""


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

    Args:
        plan: what will be done.
        memory: as in `Options`.

    Raises:
        RecipeError: some tensor needs more, even alone.
    """
    workers = torch.get_num_threads()
    if memory is None:
        return Budget(SLICE_ELEMENTS, workers)
    budget, cost, around = parse_bytes(memory, "--memory"), plan.cost, around_tensors()
    left = budget - around
    least = max(1, cost.whole_tensor_bytes)
    if least > left:
        raise RecipeError(
            "the memory budget can't be kept",
            where="--memory",
            got=f"{budget / 2**20:.1f} MiB",
            expected=f"at least {math.ceil((around + least) / 2**20)} MiB: {math.ceil(around / 2**20)} for "
            f"the process itself, {math.ceil(least / 2**20)} for {cost.whole_tensor or 'slices of tensors'}",
            hint="raise it, or give large tensors an elementwise method by a rule",
        )
    sliced = max(1, cost.slice_bytes * workers)
    return Budget(
        slice_elements=max(
            FEWEST_ELEMENTS, min(SLICE_ELEMENTS, SLICE_ELEMENTS * (left - cost.beside_bytes) // sliced)
        ),
        whole_tensors=max(1, min(workers, left // max(1, cost.whole_tensor_bytes))),
    )


def around_tensors() -> int:
    """Bytes of anonymous memory beside the tensors: what the process holds now, and what running adds."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        return INTERPRETER_BYTES + AROUND_BYTES
    held = next((line for line in status.splitlines() if line.startswith("RssAnon:")), None)
    return (INTERPRETER_BYTES if held is None else int(held.split()[1]) * 1024) + AROUND_BYTES
