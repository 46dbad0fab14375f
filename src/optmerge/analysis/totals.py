"""Figures of a tensor, a layer, a component or a whole model: one function of the sums of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from optmerge.analysis.matrices import RANKS, Overlap, Spectrum
from optmerge.analysis.tensors import TensorSums

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class DeltaFigures:
    """One task vector: an expert's τ, or the merge's s·M. None stands for what can't be said, as of τ = 0.

    Args:
        norm: ‖τ‖.
        moved: ‖τ‖/‖W₀‖.
        stable_rank: ‖τ‖²/σ₁², median over the matrices.
        effective_rank: (Σσ²)²/Σσ⁴, median over the matrices.
        energy: rank k → share of ‖τ‖² in the k leading directions of each matrix.
        lost_to_bf16: ‖bf16(W₀ + τ) − (W₀ + τ)‖/‖τ‖.
    """

    norm: float
    moved: float | None
    stable_rank: float | None
    effective_rank: float | None
    energy: dict[int, float] | None
    lost_to_bf16: float | None


@dataclass(frozen=True)
class ExpertFigures:
    """An expert's task vector, and what the merge does to it.

    Args:
        delta: the task vector τ.
        loss: Σ‖(sM − τ)τᵀ‖²/‖τ‖², the loss that WUDI and OptMerge minimise.
        interference: root of the loss in units of the base's: 0 where the merge does to the expert's inputs
            what the expert does, 1 where it is as far from that as the base.
        interference_error: standard error of that; 0 where nothing was estimated.
        cosine: between τ and s·M.
        dropped: share of the expert that the merge lacks, 1 − ⟨sM, τ⟩/‖τ‖²; negative where it has more.
    """

    delta: DeltaFigures
    loss: float | None
    interference: float | None
    interference_error: float
    cosine: float | None
    dropped: float | None


@dataclass(frozen=True)
class PairFigures:
    """Two experts.

    Args:
        first: name.
        second: name.
        cosine: between their task vectors.
        sign_agreement: share of the sampled entries, of those that both move, that they move one way.
        inputs_shared: ‖V₁ᵀV₂‖²/k of the k ≤ 8 leading input directions, mean over the matrices.
        outputs_shared: the same of the output directions.
        inputs_by_chance: the mean that random directions would have.
        outputs_by_chance: the same of the output directions.
    """

    first: str
    second: str
    cosine: float | None
    sign_agreement: float | None
    inputs_shared: float | None
    outputs_shared: float | None
    inputs_by_chance: float | None
    outputs_by_chance: float | None


@dataclass(frozen=True)
class Figures:
    """Merged tensors, taken together.

    Args:
        tensors: how many.
        scales: the smallest and the largest scale.
        experts: by name.
        pairs: of experts.
        merged: s·M.
        sampled: share of the entries at which signs and rounding were looked at.
        estimated: how many of the matrices were too large for an exact decomposition.
        spectrum_error: largest error bound of an estimated singular value, in units of σ₁.
    """

    tensors: int
    scales: tuple[float, float]
    experts: dict[str, ExpertFigures]
    pairs: tuple[PairFigures, ...]
    merged: DeltaFigures
    sampled: float
    estimated: int
    spectrum_error: float


def figures(experts: Sequence[str], tensors: Sequence[TensorSums]) -> Figures:
    """What some merged tensors show together.

    Args:
        experts: names, in the order of the sums.
        tensors: at least one.
    """
    scales = [each.scale for each in tensors]
    matrices = [matrix for each in tensors for matrix in each.matrices]
    sizes = [math.prod(each.tensor.shape) for each in tensors]
    sampled = sum(each.sampled * size for each, size in zip(tensors, sizes, strict=True))
    return Figures(
        tensors=len(tensors),
        scales=(min(scales), max(scales)),
        experts={name: _expert(tensors, index) for index, name in enumerate(experts)},
        pairs=tuple(_pair(tensors, experts, pair) for pair in combinations(range(len(experts)), 2)),
        merged=_delta(tensors, len(experts)),
        sampled=sampled / max(1, sum(sizes)),
        estimated=sum(not matrix.exact for matrix in matrices),
        spectrum_error=max((each.error for matrix in matrices for each in matrix.spectra), default=0.0),
    )


def layer_of(name: str) -> int | None:
    """Number of the layer that a tensor belongs to: the first number among the parts of its name."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def stack_of(name: str) -> str:
    """What a numbered layer is one of: the part of its tensors' names before the number."""
    found = _LAYER.search(name)
    return name[: found.start()] if found else ""


def module_of(name: str) -> str:
    """What a tensor is within its layer: the last two levels of its name, or the last before `.weight`."""
    parts = name.removesuffix(".weight").split(".")
    return ".".join(part for part in parts[-2:] if not part.isdigit())


def _expert(tensors: Sequence[TensorSums], index: int) -> ExpertFigures:
    squares = [float(each.inner[index, index]) for each in tensors]
    shared = math.fsum(float(each.inner[index, -1]) for each in tensors)
    whole, merged = math.fsum(squares), math.fsum(float(each.inner[-1, -1]) for each in tensors)
    losses = [
        (matrix.losses[index], square)
        for each, square in zip(tensors, squares, strict=True)
        for matrix in each.matrices
        if square
    ]
    loss = math.fsum(one.merged / square for one, square in losses)
    base = math.fsum(one.base / square for one, square in losses)
    variance = math.fsum(one.variance / square**2 for one, square in losses)
    interference = math.sqrt(loss / base) if base else None
    return ExpertFigures(
        delta=_delta(tensors, index),
        loss=loss if losses else None,
        interference=interference,
        # of a root: d√x = dx/(2√x)
        interference_error=math.sqrt(variance) / (2 * base * interference) if interference else 0.0,
        cosine=shared / math.sqrt(whole * merged) if whole and merged else None,
        dropped=1 - shared / whole if whole else None,
    )


def _delta(tensors: Sequence[TensorSums], index: int) -> DeltaFigures:
    square = math.fsum(max(0.0, float(each.inner[index, index])) for each in tensors)
    bases = [each.base for each in tensors]
    base = math.fsum(each for each in bases if each is not None)
    lost = math.fsum(float(each.lost[index]) / each.sampled for each in tensors)
    moved = math.fsum(float(each.moved[index]) / each.sampled for each in tensors)
    spectra = [matrix.spectra[index] for each in tensors for matrix in each.matrices]
    return DeltaFigures(
        norm=math.sqrt(square),
        moved=math.sqrt(square / base) if base and None not in bases else None,
        stable_rank=_median(spectra, lambda each: each.stable_rank),
        effective_rank=_median(spectra, lambda each: each.effective_rank),
        energy=_energy(spectra),
        lost_to_bf16=math.sqrt(lost / moved) if moved else None,
    )


def _median(spectra: Iterable[Spectrum], take: Callable[[Spectrum], float | None]) -> float | None:
    known = [value for each in spectra if (value := take(each)) is not None]
    return median(known) if known else None


def _energy(spectra: Sequence[Spectrum]) -> dict[int, float] | None:
    whole = math.fsum(each.square for each in spectra)
    if not whole:
        return None
    return {rank: math.fsum(each.energy(rank) for each in spectra) / whole for rank in RANKS}


def _pair(tensors: Sequence[TensorSums], experts: Sequence[str], pair: tuple[int, int]) -> PairFigures:
    one, other = pair
    squares = [math.fsum(float(each.inner[index, index]) for each in tensors) for index in pair]
    product = math.fsum(float(each.inner[one, other]) for each in tensors)
    agreeing = math.fsum(float(each.agreeing[pair]) / each.sampled for each in tensors)
    moving = math.fsum(float(each.moving[pair]) / each.sampled for each in tensors)
    overlaps = [
        found for each in tensors for matrix in each.matrices if (found := matrix.overlaps[pair]) is not None
    ]

    def mean(take: Callable[[Overlap], float]) -> float | None:
        return fmean(map(take, overlaps)) if overlaps else None

    return PairFigures(
        first=experts[one],
        second=experts[other],
        cosine=product / math.sqrt(math.prod(squares)) if all(squares) else None,
        sign_agreement=agreeing / moving if moving else None,
        inputs_shared=mean(lambda each: each.inputs),
        outputs_shared=mean(lambda each: each.outputs),
        inputs_by_chance=mean(lambda each: each.by_chance[0]),
        outputs_by_chance=mean(lambda each: each.by_chance[1]),
    )
