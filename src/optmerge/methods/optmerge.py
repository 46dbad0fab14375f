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
from optmerge.methods._parameters import DropRate, Fraction, Momentum, Positive, Steps
from optmerge.methods._registry import method
from optmerge.methods._scales import AutoRule
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
    Start,
    Term,
    build,
    build_dual,
    converged_filter,
    in_factor_space,
    in_solver_dtype,
    joint_factor_space,
    sgd_filter,
    start_at,
)

Variant = Literal["auto", "lora", "full"]
Solver = Literal["auto", "closed_form", "gram", "iterate"]
Settings = Literal["auto", "solved", "paper"]

CONVERGED = 0.99
"""Share up to which directions of mean curvature are solved by default."""
STEPS, MOMENTUM = 300, 0.9
"""Of the paper."""


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
    given = [name for name in ("optimizer", "solver") if resolved[name] != "auto"]
    given += [name for name in ("steps", "lr", "momentum") if resolved[name] is not None]
    settings = resolved.pop("settings")
    if settings == "solved" or (settings == "auto" and not given):
        return _solved(resolved, given)
    if resolved.pop("converged") is not None:
        raise MethodError(
            "steps of an optimiser aren't run to a share of convergence",
            where="method optmerge, parameter converged",
            got=f"converged with {', '.join(given) or 'settings: paper'}",
            hint="leave out one of them",
        )
    resolved["steps"] = STEPS if resolved["steps"] is None else resolved["steps"]
    resolved["momentum"] = MOMENTUM if resolved["momentum"] is None else resolved["momentum"]
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


def _solved(parameters: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Parameters of the flow, which has neither steps nor their size."""
    if given:
        raise MethodError(
            "the solved form takes no steps",
            where="method optmerge, parameter settings",
            got=f"settings: solved with {', '.join(given)}",
            hint=f"leave out {given[0]}, or write settings: paper",
        )
    converged = parameters["converged"]
    return {
        "settings": "solved",
        "variant": "full" if parameters["variant"] == "auto" else parameters["variant"],
        "rank_fraction": parameters["rank_fraction"],
        "start": "sum" if parameters["start"] == "auto" else parameters["start"],
        "converged": CONVERGED if converged is None else converged,
    }


def _is_solved(parameters: Parameters) -> bool:
    return parameters.get("settings") == "solved"


def _scale(parameters: Parameters) -> float:
    return 1.0 if _is_solved(parameters) else _VARIANTS[parameters["variant"]].scale


def _auto(parameters: Parameters) -> AutoRule | None:
    """A solution has its own length; what a number of steps leads to has the published scale."""
    return "own" if _is_solved(parameters) else None


def _workspace(case: Case) -> float:
    closed = _is_solved(case.parameters) or case.parameters["solver"] == "closed_form"
    steps = 0.0 if closed else 12.0
    return max(steps, 4.7 + 6.1 * squareness(case.m, case.n)) * solver_width(case.m, case.n)


@method(
    granularity="matrix",
    scale=_scale,
    auto=_auto,
    published={"settings": "paper"},
    resolve=_resolve,
    resources=Resources(
        work=lambda case: 6.0 * case.m * case.n * min(case.m, case.n) * case.experts,
        workspace=_workspace,
        keeps_factors=lambda parameters: _is_solved(parameters) or parameters["solver"] == "closed_form",
    ),
)
def optmerge(
    deltas: Sequence[Delta],
    *,
    settings: Settings = "auto",
    variant: Variant = "auto",
    rank_fraction: Fraction | None = None,
    start: Literal["auto", "sum", "mean"] = "auto",
    converged: DropRate | None = None,
    optimizer: Literal["auto", "adam", "sgd"] = "auto",
    steps: Steps | None = None,
    lr: Positive | None = None,
    momentum: Momentum | None = None,
    solver: Solver = "auto",
) -> Delta:
    """Denoise the task vectors by low rank, then optimise the merged one on their interactions.

    minimise Σ wᵢ‖(M − Tᵢ)Lᵢᵀ‖²_F,  wᵢ = 1/‖τᵢ‖²_F,  k = ⌊min(m, n)·rank_fraction⌋,  Lᵢ = S_kV_kᵀ of τᵢ

    Variant `full`: Tᵢ is the top-k SVD of τᵢ − τ̄, plus τ̄; variant `lora`: Tᵢ is the top-k SVD of τᵢ.

    By default (`settings: solved`) M follows the gradient flow from the sum, in closed form, until directions
    of mean curvature are solved up to a share; M has its own length then, and the scale is 1.

    With `settings: paper`, or where a parameter of the steps is given, the published steps are taken: Adam
    from the sum (lr 1e-5) for `full`, SGD from the mean (lr 1e-4, momentum 0.9) for `lora`; 300 steps; scale
    0.1 and 1. Long deltas need more than such steps to come near the minimum (docs/benchmark.md).

    Args:
        deltas: expert − base; an expert with a zero delta has no term.
        settings: `solved`, `paper`, or `auto`: paper where a parameter of the steps is given.
        variant: `full` or `lora`; `auto` is `full` when solved, and in the paper's settings `lora` when every
            expert is known to be low-rank.
        rank_fraction: share of the singular directions kept; 1/N by default.
        start: `sum` or `mean` of the deltas; by default the sum when solved, else the variant's own.
        converged: share up to which directions of mean curvature are solved, in [0, 1); 0.99 by default.
        optimizer: `adam` or `sgd`; the variant's own by default. In the paper's settings, as all that follow.
        steps: of the optimiser; 300 by default.
        lr: learning rate; 1e-4 for SGD and 1e-5 for Adam by default.
        momentum: of SGD; 0.9 by default.
        solver: `closed_form` (SGD only) gives the end of all steps in one formula; `gram` takes the steps on
            2(MC − D); `iterate` takes them as written, slowly; `auto` is the fastest for the optimiser.

    Raises:
        MethodError: SGD diverges at this learning rate, or a closed form is asked of Adam.

    Source: OptMerge, ICLR 2026, arXiv:2505.19892, §4.1 (full), §4.2 (lora).
    """
    resolved = _resolve(
        {
            "settings": settings,
            "variant": variant,
            "rank_fraction": rank_fraction,
            "start": start,
            "converged": converged,
            "optimizer": optimizer,
            "steps": steps,
            "lr": lr,
            "momentum": momentum,
            "solver": solver,
        },
        low_rank=all(isinstance(delta, LowRank) for delta in deltas),
    )
    k = top_rank(deltas[0].shape, rank_fraction, len(deltas))
    centred, begin_at = resolved["variant"] == "full", resolved["start"]
    if _is_solved(resolved):
        moved = sum(delta.squared_norm() > 0 for delta in deltas)
        phi = converged_filter(resolved["converged"], min(moved * k, deltas[0].shape[1]))
        return in_factor_space(
            deltas, lambda items: _quadratic(items, k, centred).solve(start_at(begin_at, items), phi)
        )
    chosen = Optimizer(resolved["optimizer"], resolved["lr"], resolved["steps"], resolved["momentum"])
    if resolved["solver"] == "iterate":
        return Dense(_literal([delta.dense() for delta in deltas], k, centred, begin_at, chosen))
    if resolved["solver"] == "closed_form":
        phi = sgd_filter(chosen.steps, chosen.lr, chosen.momentum)
        return in_factor_space(
            deltas, lambda items: _quadratic(items, k, centred).solve(start_at(begin_at, items), phi)
        )
    begin, quadratic = _expanded(deltas, k, centred, begin_at)
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


def _expanded(deltas: Sequence[Delta], k: int, centred: bool, start: Start) -> tuple[Tensor, Quadratic]:
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


def _literal(deltas: Sequence[Tensor], k: int, centred: bool, start: Start, optimizer: Optimizer) -> Tensor:
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
