"""`python -m perf.workspace NAME`: the memory that a method holds, measured beside what it declares.

Numbers are m×n float32 arrays beside the N deltas, the result included: the peak of all storages that torch's
operations make. LAPACK's own workspace is not among them. A singular value decomposition (gesdd) adds 4·k²
numbers, k = min(m, n), and an eigendecomposition of a k×k matrix (syevd) adds 2·k². Declare the sum, with a
little to spare: `@method(…, resources=Resources(workspace=lambda case: …))`.
"""

from __future__ import annotations

import argparse
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optmerge.deltas import Dense
from optmerge.methods import Case, Context, Method, apply, get

SHAPES = ((320, 320), (160, 640), (640, 160))
LARGE_SHAPES = ((768, 768), (576, 1152), (1152, 576))
"""Beyond the size up to which the solvers compute in float64."""


class PeakMemory(TorchDispatchMode):
    """Bytes of all storages that operations have made, at their most; LAPACK's inner workspace is unseen."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = {tensor.untyped_storage()._cdata: 0 for tensor in given}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.release, storage._cdata)
        return result

    def release(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def cases(method: Method, shapes: Sequence[tuple[int, int]] = SHAPES) -> Iterator[Case]:
    """Merges to measure: two experts and five, with two steps where the method takes steps."""
    few = {"steps": 2} if "steps" in method.parameters.model_fields else {}
    parameters = method.resolve(method.validate(few), False)
    for m, n in shapes:
        for experts in (method.exactly,) if method.exactly else (2, 5):
            yield Case(experts, m, n, parameters)


def deltas_of(case: Case) -> list[Tensor]:
    """Random full-rank deltas, float32, always the same."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(case.experts, case.m, case.n, generator=generator, dtype=torch.float64)
    return list(drawn.float().unbind())


def measured(method: Method, case: Case) -> float:
    """Peak number of m×n float32 arrays that torch's operations hold beside the deltas."""
    deltas = deltas_of(case)
    with PeakMemory(deltas) as memory:
        apply(method, [Dense(delta) for delta in deltas], case.parameters, Context())
    return memory.peak / (4 * case.m * case.n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="a method, as in `optmerge methods`")
    method = get(parser.parse_args().name)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'shape':>10} {'experts':>8} {'measured':>9} {'declared':>9}")
    for case in cases(method, SHAPES + LARGE_SHAPES):
        held, declared = measured(method, case), method.resources.workspace(case)
        short = "  declare more" if held > declared else ""
        print(f"{f'{case.m}×{case.n}':>10} {case.experts:>8} {held:>9.1f} {declared:>9.1f}{short}")


if __name__ == "__main__":
    main()
