"""`python -m perf.matrices`: one matrix and five dense experts through every solver, and the literal loops.

The literal loops are run for a few steps and extrapolated to all of them; everything else is measured whole,
and what takes less than a few seconds three times, of which the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from perf.run import record

import optmerge

EXPERTS, STEPS, FEW = 5, 300, 3
LONG_SECONDS = 5.0
SHAPES = ((4864, 896), (896, 4864))


@dataclass(frozen=True)
class Row:
    """A solver to time.

    Args:
        method: its name.
        parameters: of the method.
        target: in words.
        literal: it is the loop as written, timed for `FEW` steps.
    """

    method: str
    parameters: dict[str, Any]
    target: str = ""
    literal: bool = False


ROWS = (
    Row("optmerge", {"variant": "lora"}, "≤ 1 s, 896×4864 ≤ twice that"),
    Row("optmerge", {"variant": "full", "solver": "closed_form"}),
    Row("optmerge", {"variant": "full", "solver": "gram"}),
    Row("optmerge", {"variant": "full", "solver": "iterate"}, literal=True),
    Row("wudi", {"solver": "gram"}, "≥ 80 × faster than its loop at 4864×896"),
    Row("wudi", {"solver": "iterate"}, literal=True),
    Row("swudi", {}),
    Row("aswudi", {}),
    Row("tsv", {}),
    Row("iso_c", {}),
)


@dataclass(frozen=True)
class Timed:
    """A row with its figure; `extrapolated` from a few steps where it is a literal loop."""

    row: Row
    shape: tuple[int, int]
    seconds: float
    extrapolated: bool
    threads: int


def main() -> None:
    """Times every row at both shapes, prints a line each and writes a record."""
    timed = []
    for m, n in SHAPES:
        generator = torch.Generator().manual_seed(0)
        deltas = torch.randn(EXPERTS, m, n, generator=generator) * 5e-4
        for row in ROWS:
            timed.append(time_row(row, deltas))
            print(
                f"{m}×{n} {row.method:9s} {row.parameters!s:48s} {timed[-1].seconds:8.2f} s"
                f"{' (from ' + str(FEW) + ' steps)' if row.literal else ''}  {row.target}",
                flush=True,
            )
    record(timed, "matrices")


def time_row(row: Row, deltas: torch.Tensor) -> Timed:
    """One run, or the median of three short ones, or the slope between one step and a few."""

    def run(**more: int) -> float:
        return seconds(lambda: optmerge.merge_deltas(row.method, deltas, **row.parameters, **more))

    if row.literal:
        few, one = run(steps=1 + FEW), run(steps=1)
        found = one + (few - one) / FEW * (STEPS - 1)
    else:
        found = run()
        if found < LONG_SECONDS:
            found = statistics.median([found, run(), run()])
    return Timed(row, (deltas.shape[1], deltas.shape[2]), found, row.literal, torch.get_num_threads())


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
