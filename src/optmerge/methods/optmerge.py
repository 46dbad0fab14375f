"""OptMerge: denoise the task vectors by low rank, then optimise against what each expert's inputs see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.errors import MethodError
from optmerge.methods._method import Case, Parameters, Resources
from optmerge.methods._parameters import Fraction, Momentum, Positive, Steps
from optmerge.methods._registry import method
from optmerge.methods._solvers.iterations import Optimizer, descend, literal_loop
from optmerge.methods._solvers.linalg import (
    leading_directions,
    solver_width,
    squared_norm,
    squareness,
    top_rank,
)
from optmerge.methods._solvers.quadratic import (
    Dual,
    Quadratic,
    Term,
    build,
    build_dual,
    in_factor_space,
    in_solver_dtype,
    joint_factor_space,
    sgd_filter,
    start_at,
)

Variant = Literal["auto", "lora", "full"]
Solver = Literal["auto", "closed_form", "gram", "iterate"]


@dataclass(frozen=True)
class _Defaults:
    """What the paper and its public code use for a variant."""

    optimizer: Literal["adam", "sgd"]
    lr: float
    start: Literal["sum", "mean"]
    scale: float


_VARIANTS = {
    "lora": _Defaults(optimizer="sgd", lr=1e-4, start="mean", scale=1.0),
    "full": _Defaults(optimizer="adam", lr=1e-5, start="sum", scale=0.1),
}
_LEARNING_RATES = {"sgd": 1e-4, "adam": 1e-5}


def _resolve(parameters: dict[str, Any], low_rank: bool) -> dict[str, Any]:
    """Replaces every `auto`, from the variant downwards; what has been chosen stays.

    The engine calls this with what it knows of all experts, and its choice wins: the function then finds no
    `auto` left. Called by itself the function decides in the same way, from the deltas of its one tensor.
    """
    resolved = dict(parameters)
    if resolved["variant"] == "auto":
        resolved["variant"] = "lora" if low_rank else "full"
    defaults = _VARIANTS[resolved["variant"]]
    if resolved["optimizer"] == "auto":
        resolved["optimizer"] = "sgd" if resolved["solver"] == "closed_form" else defaults.optimizer
    if resolved["solver"] == "auto":
        resolved["solver"] = "closed_form" if resolved["optimizer"] == "sgd" else "gram"
    if resolved["solver"] == "closed_form" and resolved["optimizer"] == "adam":
        raise MethodError(
            "adam has no closed form",
            where="method optmerge, parameter solver",
            got="solver closed_form with optimizer adam",
            hint="use solver gram, or optimizer sgd",
        )
    if resolved["start"] == "auto":
        resolved["start"] = defaults.start
    if resolved["lr"] is None:
        resolved["lr"] = _LEARNING_RATES[resolved["optimizer"]]
    return resolved


def _scale(parameters: Parameters) -> float:
    return _VARIANTS["full" if parameters["variant"] == "auto" else parameters["variant"]].scale


def _workspace(case: Case) -> float:
    steps = 12.0 if case.parameters["solver"] != "closed_form" else 0.0
    return max(steps, 4.7 + 6.1 * squareness(case.m, case.n)) * solver_width(case.m, case.n)


@method(
    granularity="matrix",
    scale=_scale,
    resolve=_resolve,
    resources=Resources(
        work=lambda case: 6.0 * case.m * case.n * min(case.m, case.n) * case.experts,
        workspace=_workspace,
        keeps_factors=lambda parameters: parameters["solver"] == "closed_form",
    ),
)
def optmerge(
    deltas: Sequence[Delta],
    *,
    variant: Variant = "auto",
    rank_fraction: Fraction | None = None,
    start: Literal["auto", "sum", "mean"] = "auto",
    optimizer: Literal["auto", "adam", "sgd"] = "auto",
    steps: Steps = 300,
    lr: Positive | None = None,
    momentum: Momentum = 0.9,
    solver: Solver = "auto",
) -> Delta:
    """Denoise the task vectors by low rank, then optimise the merged one on their interactions.

    minimise Σ wᵢ‖(M − Tᵢ)Lᵢᵀ‖²_F,  wᵢ = 1/‖τᵢ‖²_F,  k = ⌊min(m, n)·rank_fraction⌋,  Lᵢ = S_kV_kᵀ of τᵢ

    Variant `lora`: Tᵢ is the top-k SVD of τᵢ; SGD from the mean (lr 1e-4, momentum 0.9).
    Variant `full`: Tᵢ is the top-k SVD of τᵢ − τ̄, plus τ̄; Adam from the sum (lr 1e-5).

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        variant: `lora`, `full`, or `auto`: lora when every expert is known to be low-rank.
        rank_fraction: share of the singular directions kept; 1/N by default.
        start: `sum` or `mean` of the deltas; the variant's own by default.
        optimizer: `adam` or `sgd`; the variant's own by default.
        steps: of the optimiser.
        lr: learning rate; 1e-4 for SGD and 1e-5 for Adam by default.
        momentum: of SGD.
        solver: `closed_form` (SGD only) gives the end of all steps in one formula; `gram` takes the steps on
            2(MC − D); `iterate` takes them as written, slowly; `auto` is the fastest for the optimiser.

    Raises:
        MethodError: SGD diverges at this learning rate, or a closed form is asked of Adam.

    Source: OptMerge, ICLR 2026, arXiv:2505.19892, §4.1 (full), §4.2 (lora).
    """
    settings = _resolve(
        {"variant": variant, "solver": solver, "optimizer": optimizer, "start": start, "lr": lr},
        low_rank=all(isinstance(delta, LowRank) for delta in deltas),
    )
    chosen = Optimizer(settings["optimizer"], settings["lr"], steps, momentum)
    k = top_rank(deltas[0].shape, rank_fraction, len(deltas))
    centred = settings["variant"] == "full"
    if settings["solver"] == "iterate":
        return Dense(_literal([delta.dense() for delta in deltas], k, centred, settings["start"], chosen))
    if settings["solver"] == "closed_form":
        phi = sgd_filter(steps, chosen.lr, momentum)
        return in_factor_space(
            deltas, lambda items: _quadratic(items, k, centred).solve(start_at(settings["start"], items), phi)
        )
    begin, quadratic = _expanded(deltas, k, centred, settings["start"])
    return Dense(descend(quadratic, begin.to(deltas[0].dtype), chosen))


def _quadratic(deltas: Sequence[Tensor], k: int, centred: bool) -> Quadratic:
    rank = len(deltas) * min(k, *deltas[0].shape)
    return build(_terms(deltas, k, centred), deltas[0], rank)


def _terms(deltas: Sequence[Tensor], k: int, centred: bool) -> Iterator[Term]:
    """Lᵢ and TᵢLᵢᵀ of each expert that has a delta; Tᵢ itself is never formed."""
    mean = start_at("mean", deltas) if centred else None
    for delta in in_solver_dtype(deltas):
        norm = squared_norm(delta)
        if norm == 0:
            continue
        top = leading_directions(delta, k)
        seen = top.seen  # (k, n)
        if mean is None:
            pull = top.left * top.values.square()  # U S Vᵀ · V S
        else:
            apart = leading_directions(delta - mean, k)
            pull = apart.left @ (apart.seen @ seen.T) + mean @ seen.T
        yield Term(1 / norm, seen, pull)


def _expanded(deltas: Sequence[Delta], k: int, centred: bool, start: str) -> tuple[Tensor, Quadratic]:
    """M₀ and the quadratic in the tensor's own coordinates, which Adam's entrywise steps need."""
    space = joint_factor_space(deltas)
    if space is None:
        matrices = [delta.dense() for delta in deltas]
        return start_at(start, matrices), _quadratic(matrices, k, centred)
    if space.rows.shape[1] == 0:
        return zero_like(deltas).dense(), Dual(space.columns.T, space.rows)
    core = build_dual(_terms(space.cores, k, centred), space.cores[0], len(deltas) * len(space.cores[0]))
    begin = space.rows @ start_at(start, space.cores) @ space.columns.T
    return begin, core.expand(space)


def _literal(deltas: Sequence[Tensor], k: int, centred: bool, start: str, optimizer: Optimizer) -> Tensor:
    """The loop as it is written, from full singular value decompositions."""
    dtype = deltas[0].dtype
    mean = start_at("mean", deltas).to(dtype)
    weights, targets, seen = [], [], []
    for delta in deltas:
        if not bool(delta.any()):
            continue
        _, values, right = torch.linalg.svd(delta, full_matrices=False)
        weights.append(1 / squared_norm(delta.double()))
        seen.append(values[:k, None] * right[:k])
        targets.append(_truncated(delta - mean, k) + mean if centred else _truncated(delta, k))
    return literal_loop(start_at(start, deltas).to(dtype), weights, targets, seen, optimizer)


def _truncated(matrix: Tensor, k: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    truncated: Tensor = (left[:, :k] * values[:k]) @ right[:k]
    return truncated
