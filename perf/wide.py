"""`python -m perf.wide`: each method on a matrix and on one of the transposed shape, side by side.

Five dense experts, one thread, seconds of processor time. `--layer` puts every shape of a Qwen2-VL-7B layer
through the default method and projects all layers on two cores; `--shrink 4` makes all sides a fourth and
multiplies that time by 64. `--error` compares the default method with its eigenproblem solved in float64.

Two kinds of experts: `flat` ones are noise, with singular values that are all alike; `decaying` ones have
singular values that fall by three orders of magnitude, and a tenth of their energy in noise.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from perf.run import machine, record

import optmerge

EXPERTS, LAYERS, CORES, NOISE = 5, 28, 2, 0.1
METHODS = ("swudi", "aswudi", "tsv", "iso_c", "optmerge")
LAYER = {(18944, 3584): 2, (3584, 18944): 1, (3584, 3584): 2, (512, 3584): 2}
"""Shapes of the matrices of a Qwen2-VL-7B layer, and how many there are."""


@dataclass(frozen=True)
class Timed:
    """One method on one matrix.

    Args:
        method: its name.
        kind: of experts.
        shape: rows (outputs) and columns (inputs).
        cpu_seconds: of one thread.
        gflops: a float32 matrix product of side 2048, measured right before, per second of processor time.
        error: ‖M − exact‖/‖exact‖ against float64; None where it wasn't measured.
        shrink: what the sides of the real matrix were divided by.
    """

    method: str
    kind: str
    shape: tuple[int, int]
    cpu_seconds: float
    gflops: float
    error: float | None = None
    shrink: int = 1
    machine: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measures what is asked for, prints it, and writes a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs=2, type=int, default=(4864, 896), metavar=("TALL", "NARROW"))
    parser.add_argument("--kind", choices=("flat", "decaying"), default="decaying")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--layer", action="store_true")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--error", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shapes = list(LAYER) if asked.layer else [tuple(asked.shape), tuple(asked.shape)[::-1]]
    names = ("swudi",) if asked.layer else asked.only
    timed = []
    for shape in shapes:
        deltas = experts(asked.kind, *(side // asked.shrink for side in shape))
        for name in names:
            timed.append(measured(name, asked.kind, deltas, asked.shrink, asked.error))
            print(words(timed[-1]), flush=True)
    for line in projected(timed) if asked.layer else ratios(timed):
        print(line)
    record(timed, "wide")


def experts(kind: str, m: int, n: int) -> list[torch.Tensor]:
    """Deltas of the kind, float32, always the same."""
    generator = torch.Generator().manual_seed(0)
    if kind == "flat":
        return [torch.randn(m, n, generator=generator) * 5e-4 for _ in range(EXPERTS)]
    rank = min(m, n)
    sizes = 10 ** -torch.linspace(0, 3, rank)
    found = []
    for _ in range(EXPERTS):
        left = torch.randn(m, rank, generator=generator) * sizes
        delta = left @ torch.randn(rank, n, generator=generator)
        noise = torch.randn(m, n, generator=generator)
        delta *= math.sqrt(1 - NOISE) / delta.norm()
        found.append(delta.add_(noise, alpha=math.sqrt(NOISE) / float(noise.norm())))
    return found


def measured(name: str, kind: str, deltas: Sequence[torch.Tensor], shrink: int, error: bool) -> Timed:
    """One run of a method; the flow's time grows with the shrunk sides' eigenvalues."""
    longer: dict[str, Any] = {"time": 300.0 / shrink} if name == "swudi" else {}
    m, n = deltas[0].shape
    rate = product_gflops()
    seconds, merged = cpu_seconds(lambda: optmerge.merge_deltas(name, list(deltas), **longer))
    missed = None
    if error and name == "swudi":
        exact = optmerge.merge_deltas(name, [each.double() for each in deltas], tolerance=0, **longer)
        missed = float((merged - exact).norm() / exact.norm())
    return Timed(name, kind, (m, n), seconds, rate, missed, shrink, machine())


def product_gflops(size: int = 2048) -> float:
    """Operations in a float32 matrix product per nanosecond of processor time."""
    left, right = torch.randn(2, size, size)
    seconds, _ = cpu_seconds(lambda: left @ right)
    return 2 * size**3 / seconds / 1e9


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, and what it returned."""
    started = time.process_time()
    found = action()
    return time.process_time() - started, found


def words(timed: Timed) -> str:
    """One line for people."""
    m, n = timed.shape
    error = "" if timed.error is None else f"  error {timed.error:.1e}"
    return (
        f"{m:6}×{n:<6} {timed.method:9} {timed.kind:9} {timed.cpu_seconds:8.2f} s of a core "
        f"(products: {timed.gflops:.0f} GFLOP/s){error}"
    )


def ratios(timed: Sequence[Timed]) -> list[str]:
    """How much longer each method takes on the second shape than on the first."""
    half = len(timed) // 2
    return [
        f"{tall.method:9} wide/tall: {wide.cpu_seconds / tall.cpu_seconds:.2f}"
        for tall, wide in zip(timed[:half], timed[half:], strict=True)
    ]


def projected(timed: Sequence[Timed]) -> list[str]:
    """The whole model on two cores."""
    layer = sum(
        each.cpu_seconds * each.shrink**3 * count for each, count in zip(timed, LAYER.values(), strict=True)
    )
    minutes = layer * LAYERS / CORES / 60
    return [f"a layer: {layer:.0f} s of a core; {LAYERS} layers on {CORES} cores: {minutes:.0f} min"]


if __name__ == "__main__":
    main()
