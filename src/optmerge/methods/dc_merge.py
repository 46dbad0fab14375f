"""DC-Merge: task singular vectors with an even spectrum, put together in one orthogonal basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, zero_like
from optmerge.methods._method import Resources
from optmerge.methods._parameters import Fraction
from optmerge.methods._registry import method
from optmerge.methods._solvers.linalg import TopSingular, polar_factor, squareness, top_rank, top_singular

Spectrum = Literal["keep", "mean", "linear"]


def _resolve(parameters: dict[str, Any], low_rank: bool) -> dict[str, Any]:
    if parameters["spectrum"] != "auto":
        return parameters
    return {**parameters, "spectrum": "mean" if low_rank else "keep"}


@method(
    granularity="matrix",
    scale=1.0,
    auto="decorrelating",
    published={"keep": 0.001},
    resolve=_resolve,
    resources=Resources(
        work=lambda case: 12.0 * case.m * case.n * min(case.m, case.n) * case.experts,
        workspace=lambda case: 9.2 + (10.0 + 6.0 * case.experts) * squareness(case.m, case.n),
        keeps_factors=lambda parameters: True,
    ),
)
def dc_merge(
    deltas: Sequence[Delta],
    *,
    spectrum: Literal["auto", "keep", "mean", "linear"] = "auto",
    steepness: Annotated[float, Field(ge=1)] = 5.0,
    keep: Fraction = 1.0,
) -> Delta:
    """Leading singular triplets with an even spectrum, merged by elected signs in one orthogonal basis.

    M = U⊥KV⊥ᵀ,  Kᵢ = U⊥ᵀτ̂ᵢV⊥,  K by block of an expert the mean of the trimmed Kᵢ that have the elected sign

    τ̂ᵢ: the top k = ⌊min(m, n)/N⌋ triplets of τᵢ, all of a low-rank one; U⊥, V⊥ the polar factors of their
    vectors side by side; each Kᵢ is trimmed to its largest entries; only the N diagonal blocks of K, one for
    each expert's own vectors, are kept. Low-rank deltas stay factors.

    Args:
        deltas: expert − base; not modified.
        spectrum: of τ̂ᵢ, its sum unchanged: `keep`, as it is; `mean`, flat; `linear`, a straight line from
            the first to the last. `auto` is `mean` where all experts are low-rank and else `keep`.
        steepness: first over last singular value of `linear`, at most what it was.
        keep: share of a Kᵢ's entries that are kept by magnitude. 0.001 is published: of a matrix of 1,000
            that is about the diagonal, of a small one less.

    Source: "DC-Merge", arXiv:2603.06242 (CVPR 2026), and its code (github.com/Tobeginwith/DC-Merge).
    """
    low_rank = all(isinstance(delta, LowRank) for delta in deltas)
    smaller = min(deltas[0].shape)
    whole = low_rank and sum(delta.parts[1].shape[0] for delta in deltas) <= smaller
    k = smaller if whole else top_rank(deltas[0].shape, None, len(deltas))
    tops = [top for top in (top_singular(delta, k) for delta in deltas) if top.values.numel()]
    if not tops:
        return zero_like(deltas)
    if spectrum == "auto":
        spectrum = "mean" if low_rank else "keep"
    left = polar_factor(torch.cat([top.left for top in tops], dim=1))  # (m, Σk)
    right = polar_factor(torch.cat([top.right for top in tops], dim=1))  # (n, Σk)
    side = (
        left.shape[1] if low_rank else max(left.shape[1], smaller)
    )  # entries are counted as published code counts them
    core = _core(tops, left, right, spectrum, steepness, _kept(keep, side))
    if low_rank:
        return LowRank((left @ core).to(deltas[0].dtype), right.T.to(deltas[0].dtype))
    return Dense((left @ core @ right.T).to(deltas[0].dtype))


def _kept(keep: float, side: int) -> int:
    return max(1, int(keep * side * side))


def _core(
    tops: Sequence[TopSingular], left: Tensor, right: Tensor, spectrum: Spectrum, steepness: float, kept: int
) -> Tensor:
    """K: diagonal blocks of the trimmed Kᵢ's mean over those with the elected sign, (Σk, Σk)."""
    cores = []
    for top in tops:
        values = _evened(top.values.to(left.dtype), spectrum, steepness)
        core = (left.T @ top.left.to(left.dtype) * values) @ (top.right.to(right.dtype).T @ right)
        cores.append(_trimmed(core, kept))
    elected = torch.sign(sum(cores[1:], cores[0]))
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for core in cores:
        agrees = torch.sign(core) == elected
        total += core * agrees
        count += agrees
    merged = torch.where(elected == 0, 0.0, total / count.clamp(min=1))
    blocks = torch.zeros_like(merged)
    start = 0
    for top in tops:
        own = slice(start, start + top.values.numel())
        blocks[own, own] = merged[own, own]
        start = own.stop
    return blocks


def _evened(values: Tensor, spectrum: Spectrum, steepness: float) -> Tensor:
    if spectrum == "keep":
        return values
    if spectrum == "mean":
        return values.mean().expand(values.shape)
    ratio = min(steepness, float(values[0] / values[-1]))
    line = torch.linspace(ratio, 1.0, values.numel(), dtype=values.dtype, device=values.device)
    return values.sum() * line / line.sum()


def _trimmed(core: Tensor, kept: int) -> Tensor:
    if kept >= core.numel():
        return core
    least = core.abs().flatten().topk(kept).values[-1]
    return core * (core.abs() >= least)
