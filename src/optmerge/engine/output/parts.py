"""Parts of a routed output: a small PEFT adapter of the merged model for every expert, and the router.

An expert's part is what the merge lost of the expert, Rᵢ = (W₀ + τᵢ) − W, restricted to a low rank in every
matrix. W is read as it was stored, so a part also makes up for its rounding. Candidates wait on the disk, one
file a tensor, until all are known; then the budget is spent on the directions that hold most of what was
lost, for each weight. A merge that is interrupted goes on from the files that are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from optmerge.checkpoints.adapter_writer import write_adapter
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.output_files import disk_errors, write_file
from optmerge.checkpoints.reader import Reader
from optmerge.deltas import LowRank
from optmerge.engine.output.router import FOLDER, write_router
from optmerge.engine.plan import Plan, TensorPlan
from optmerge.engine.running.budget import Budget
from optmerge.engine.running.pool import Pool
from optmerge.engine.running.sources import Sources
from optmerge.errors import AdapterError, InputError

CANDIDATES = 4
"""Directions of a matrix that are looked at, as a multiple of what each would get if all got equally many."""

EXACT_SIDE = 1024
"""Shorter side of a matrix up to which its singular values are computed exactly."""

OVERSAMPLING, POWER_STEPS = 16, 2
"""Further directions of a randomised decomposition, and its power iterations."""


@dataclass(frozen=True)
class Parts:
    """The parts that were made.

    Args:
        ranks: expert → tensor → rank of its factors; tensors without factors are left out.
        kept: expert → share of what the merge lost of the expert, ‖Rᵢ‖², that its part gives back.
        weights: of all parts and the router.
        nbytes: of the same.
    """

    ranks: Mapping[str, Mapping[str, int]]
    kept: Mapping[str, float]
    weights: int
    nbytes: int

    def plain(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "weights": self.weights,
            "bytes": self.nbytes,
            "kept": dict(self.kept),
            "ranks": {name: dict(ranks) for name, ranks in self.ranks.items()},
        }


def write_parts(plan: Plan, sources: Sources, budget: Budget, staging: Path) -> Parts | None:
    """Writes the parts and the router beside a merged checkpoint; None where none were asked for.

    Args:
        plan: of the merge.
        sources: open inputs.
        budget: how many tensors are worked on side by side.
        staging: folder of the merged checkpoint, complete.

    Raises:
        InputError: an expert is what was merged, so that there is nothing to route to.
        RunError: the disk is full or failed.
    """
    routed = plan.routed
    if routed is None:
        return None
    folder = staging / FOLDER
    scratch = folder / "candidates"
    with disk_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
    router = write_router(plan, routed, sources, folder)
    tensors = [tensor for tensor in plan.tensors if tensor.name in routed.tensors]
    files = {tensor.name: scratch / f"{number}.safetensors" for number, tensor in enumerate(tensors)}
    equal = routed.weights / (len(plan.expert_names) * sum(sum(tensor.shape) for tensor in tensors))
    most = max(8, round(CANDIDATES * equal))
    with open_checkpoint(staging).reader() as merged, Pool(budget.whole_tensors, sources.device) as pool:

        def find(tensor: TensorPlan) -> None:
            if not files[tensor.name].exists():
                found = _candidates(tensor, sources, merged, min(most, *tensor.shape))
                write_file(files[tensor.name], save(found))

        pool.each(find, tensors)
    ranks, kept = _spent(plan, tensors, files, routed.weights - router.numel())
    nbytes = router.nbytes
    for expert in plan.expert_names:
        nbytes += _write_part(plan, sources, tensors, files, ranks[expert], expert, folder)
    shutil.rmtree(scratch)
    used = sum(sum(t.shape) * own.get(t.name, 0) for own in ranks.values() for t in tensors)
    return Parts(ranks, kept, used + router.numel(), nbytes)


def _candidates(tensor: TensorPlan, sources: Sources, merged: Reader, most: int) -> dict[str, Tensor]:
    """Leading factors of what the merge lost of every expert, and how much each of their directions holds.

    Names end with the expert's number: `up.0` (directions, rows), `down.0` (directions, columns), in the
    output's type; `gains.0` (directions,) squared singular values, descending; `lost.0` () ‖R‖².
    """
    found: dict[str, Tensor] = {}
    dtype = DTYPES[tensor.out_dtype].torch
    base = sources.base(tensor)
    written = merged.read_flat(tensor.name, 0, base.numel()).view(base.shape).to(base.device, base.dtype)
    for number, delta in enumerate(sources.deltas(tensor, base)):
        lost = delta.dense() + base
        lost -= written
        up, values, down = leading(lost, most, number)
        roots = values.sqrt()
        found |= {
            f"up.{number}": (up * roots).T.to("cpu", dtype).contiguous(),
            f"down.{number}": (roots[:, None] * down).to("cpu", dtype).contiguous(),
            f"gains.{number}": values.double().square().cpu(),
            f"lost.{number}": lost.double().square().sum().cpu(),
        }
    return found


def leading(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular vectors and values: (m, rank), (rank,), (rank, n).

    Of large matrices by subspace iteration from a seeded Gaussian sketch.

    Source: Halko, Martinsson, Tropp 2011, Algorithms 4.4 and 5.1.
    """
    if min(matrix.shape) <= max(EXACT_SIDE, rank + OVERSAMPLING):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    drawn = torch.randn(
        matrix.shape[1],
        rank + OVERSAMPLING,
        generator=torch.Generator().manual_seed(seed),
        dtype=matrix.dtype,
    )
    basis, _ = torch.linalg.qr(matrix @ drawn.to(matrix.device))
    for _ in range(POWER_STEPS):
        basis, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ basis)
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ left)[:, :rank], values[:rank], right[:rank]


def _spent(
    plan: Plan, tensors: Sequence[TensorPlan], files: Mapping[str, Path], weights: int
) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """Expert → tensor → rank, and expert → share of its loss that is given back."""
    experts = plan.expert_names
    gains: list[NDArray[np.float64]] = []
    lost = dict.fromkeys(experts, 0.0)
    for tensor in tensors:
        with safe_open(files[tensor.name], "pt") as file:
            gains += [file.get_tensor(f"gains.{number}").numpy() for number in range(len(experts))]
            for number, expert in enumerate(experts):
                lost[expert] += float(file.get_tensor(f"lost.{number}"))
    costs = [sum(tensor.shape) for tensor in tensors for _ in experts]
    ranks: dict[str, dict[str, int]] = {expert: {} for expert in experts}
    kept = dict.fromkeys(experts, 0.0)
    places = [(tensor.name, expert) for tensor in tensors for expert in experts]
    for (name, expert), own, rank in zip(places, gains, spend(gains, costs, weights), strict=True):
        kept[expert] += float(own[:rank].sum())
        if rank:
            ranks[expert][name] = rank
    return ranks, {expert: kept[expert] / lost[expert] if lost[expert] else 1.0 for expert in experts}


def spend(gains: Sequence[NDArray[np.float64]], costs: Sequence[int], budget: int) -> list[int]:
    """How many directions of each matrix to keep, so that they hold the most for their weights.

    Args:
        gains: of each matrix what each direction holds, descending.
        costs: of each matrix the weights of a direction.
        budget: most weights of all.

    Returns:
        Of each matrix how many of its first directions are kept.
    """
    ratios = np.concatenate([own / cost for own, cost in zip(gains, costs, strict=True)])
    owners = np.repeat(np.arange(len(gains)), [len(own) for own in gains])
    ranks, left = [0] * len(gains), budget
    for place in np.argsort(-ratios, kind="stable"):
        owner = owners[place]
        if ratios[place] > 0 and costs[owner] <= left:
            ranks[owner] += 1
            left -= costs[owner]
    return ranks


def _write_part(
    plan: Plan,
    sources: Sources,
    tensors: Sequence[TensorPlan],
    files: Mapping[str, Path],
    ranks: Mapping[str, int],
    expert: str,
    folder: Path,
) -> int:
    """Writes one expert's adapter; returns its factors' bytes."""
    canonical = sources.inputs.base.architecture.canonical
    number = plan.expert_names.index(expert)
    factors: dict[str, LowRank] = {}
    for tensor in tensors:
        rank = ranks.get(tensor.name)
        if rank:
            with safe_open(files[tensor.name], "pt") as file:  # mapped into memory, read where it is written
                up, down = (file.get_tensor(f"{side}.{number}")[:rank] for side in ("up", "down"))
            factors[canonical(tensor.name)] = LowRank(up.T, down)
    out = folder / expert
    with disk_errors(out):
        out.mkdir(exist_ok=True)
    try:
        write_adapter(
            out,
            factors,
            base_model_name="../..",
            transposed={canonical(tensor.name) for tensor in tensors if tensor.layout == "transposed"},
            dtype=DTYPES[tensors[0].out_dtype].torch,
        )
    except AdapterError as problem:
        raise InputError(
            f"the part of expert {expert!r} can't be written as an adapter",
            where="output",
            got=problem.what,
            hint="raise the budget: output: {format: routed, budget: …}",
        ) from problem
    return sum(part.nbytes for each in factors.values() for part in each.parts)
