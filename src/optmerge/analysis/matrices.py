"""The spectrum of one matrix of a task vector, and the interference of a merge with it.

Small matrices are decomposed exactly in float64. Of large ones the leading singular triplets and the loss are
estimated by random probes; every estimate comes with its error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from optmerge.deltas import Delta, FactorSpace, LowRank, pieces
from optmerge.deltas.thin import gram

EXACT_SIDE = 256
"""Smaller side up to which a matrix is decomposed exactly."""

RANKS = (1, 2, 4, 8, 16, 32)
"""Ranks at which the energy of a task vector is measured."""

WIDTH = 40
"""Columns of the random range finder: the largest rank and a few more."""

PROBES = 16
"""Random probes of what the leading triplets leave of the loss."""

SHARED = 8
"""Leading directions of each expert whose spans are compared; at most an eighth of the smaller side."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Leading singular values of a matrix τ.

    Args:
        values: (k,) singular values, descending, float64; those that are 0 to rounding left out.
        square: ‖τ‖².
        fourth: Σσ⁴ = ‖ττᵀ‖².
        error: largest ‖τᵀuⱼ − σⱼvⱼ‖/σ₁, a bound of each value's relative error in σ₁; 0 where exact.
    """

    values: Tensor
    square: float
    fourth: float
    error: float

    def energy(self, rank: int) -> float:
        """Σσ² of so many leading directions."""
        return min(self.square, float(self.values[:rank].square().sum()))

    @property
    def stable_rank(self) -> float | None:
        """‖τ‖²/σ₁²; None where τ is 0."""
        return self.square / float(self.values[0]) ** 2 if len(self.values) else None

    @property
    def effective_rank(self) -> float | None:
        """(Σσ²)²/Σσ⁴, the number of equal singular values that would do as much; None where τ is 0."""
        return self.square**2 / self.fourth if self.fourth else None


@dataclass(frozen=True)
class Loss:
    """Interference of a merge with one expert in one matrix.

    Args:
        merged: ‖(sM − τ)τᵀ‖².
        base: ‖ττᵀ‖², the same of the base, whose M is 0.
        variance: of the estimate of `merged`; 0 where it is exact.
    """

    merged: float
    base: float
    variance: float = 0.0


@dataclass(frozen=True)
class Overlap:
    """How much two experts share of the spans of their leading directions.

    Args:
        inputs: ‖V₁ᵀV₂‖²/k in [0, 1].
        outputs: ‖U₁ᵀU₂‖²/k.
        by_chance: mean of the same for random spans: k/n and k/m.
    """

    inputs: float
    outputs: float
    by_chance: tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Decomposed:
    """One delta: `left` (m, k) and `right` (n, k) are its leading directions, of outputs and inputs."""

    spectrum: Spectrum
    loss: Loss
    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class MatrixFigures:
    """What was measured of one matrix.

    Args:
        spectra: of each expert's delta, then of s·M.
        losses: of each expert.
        overlaps: of each pair of experts (first < second); None where one of them has no direction.
        exact: whether nothing was estimated.
    """

    spectra: tuple[Spectrum, ...]
    losses: tuple[Loss, ...]
    overlaps: dict[tuple[int, int], Overlap | None]
    exact: bool


def measure_matrix(deltas: Sequence[Delta], merged: Delta, name: str) -> MatrixFigures:
    """Spectra, losses and overlaps in one (outputs, inputs) matrix.

    Args:
        deltas: of the experts, float32 or float64, unweighted; not modified.
        merged: s·M.
        name: seeds random probes.
    """
    m, n = merged.shape
    everything = [*deltas, merged]
    low = [each for each in everything if isinstance(each, LowRank)]
    if len(low) == len(everything) and 0 < sum(each.rank for each in low) < min(m, n):
        # Singular values, losses and overlaps are the same in orthonormal coordinates of the joint spaces.
        matrices = FactorSpace.of(low).cores
    else:
        matrices = [each.dense() for each in everything]
    exact = min(matrices[0].shape) <= EXACT_SIDE
    if exact:
        matrices = [each.double() for each in matrices]
    found = [
        _exact(matrix, matrices[-1]) if exact else _estimated(matrix, matrices[-1], _seed(name, index))
        for index, matrix in enumerate(matrices)
    ]
    k = max(1, min(SHARED, min(m, n) // 8))
    pairs = combinations(range(len(deltas)), 2)
    return MatrixFigures(
        spectra=tuple(each.spectrum for each in found),
        losses=tuple(each.loss for each in found[:-1]),
        overlaps={(one, other): _overlap(found[one], found[other], k, (m, n)) for one, other in pairs},
        exact=exact,
    )


def _seed(name: str, index: int) -> int:
    digest = hashlib.sha256(f"{name}\0{index}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _exact(matrix: Tensor, merged: Tensor) -> _Decomposed:
    """Everything from the Gram matrix of the smaller side, float64."""
    tall = matrix.shape[0] >= matrix.shape[1]
    squares = gram(matrix if tall else matrix.T)  # τᵀτ or ττᵀ
    eigenvalues, vectors = torch.linalg.eigh(squares)
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    kept = int((eigenvalues > max(matrix.shape) * 1e-15 * eigenvalues[:1].clamp(min=0)).sum())
    values, vectors = eigenvalues[:kept].sqrt(), vectors[:, :kept]
    other = (matrix @ vectors if tall else matrix.T @ vectors) / values
    left, right = (other, vectors) if tall else (vectors, other)
    fourth = float((squares * squares).sum())
    spectrum = Spectrum(values, float((matrix * matrix).sum()), fourth, 0.0)
    if tall:
        gap = merged - matrix
        loss = float(((gap @ squares) * gap).sum())
    else:
        loss = float((merged @ matrix.T - squares).square().sum())
    return _Decomposed(spectrum, Loss(max(0.0, loss), fourth), left[:, :SHARED], right[:, :SHARED])


def _estimated(matrix: Tensor, merged: Tensor, seed: int) -> _Decomposed:
    """A range finder with one power iteration, and the loss outside its range by random probes.

    ‖Aτᵀ‖² = ‖Aτᵀ·U‖² + E‖Aτᵀ(I − UUᵀ)r‖² for a vector r of random signs.

    Source: Halko, Martinsson & Tropp 2011, Algorithm 4.4; Meyer et al. 2021, "Hutch++", on the split.
    """
    generator = torch.Generator(matrix.device).manual_seed(seed)
    options = {"generator": generator, "device": matrix.device, "dtype": matrix.dtype}
    width = min(WIDTH, *matrix.shape)
    random = torch.randn(matrix.shape[1], width, **options)  # type: ignore[call-overload]
    range_of = torch.linalg.qr(matrix.T @ (matrix @ random)).Q
    left, values, turn = torch.linalg.svd(matrix @ range_of, full_matrices=False)
    right = range_of @ turn.T
    seen = matrix.T @ left  # (n, width): τᵀU
    signs = torch.randint(0, 2, (matrix.shape[0], PROBES), generator=generator, device=matrix.device)
    probes = signs.to(matrix.dtype).mul_(2).sub_(1)
    rest = matrix.T @ (probes - left @ (left.T @ probes))  # (n, PROBES)
    both = torch.cat([seen, rest], dim=1)
    own, other = matrix @ both, merged @ both
    base, _ = _sum_and_variance(own, width)
    loss, variance = _sum_and_variance(other - own, width)
    first = float(values[0])
    k = min(RANKS[-1], int((values > values[0] * max(matrix.shape) * 1e-7).sum()))
    residuals = (seen - values * right)[:, :k].norm(dim=0)
    error = float(residuals.max()) / first if k else 0.0
    spectrum = Spectrum(values[:k].double(), _square(matrix), base, error)
    directions = (side[:, : min(k, SHARED)].double() for side in (left, right))
    return _Decomposed(spectrum, Loss(loss, base, variance), *directions)


def _sum_and_variance(columns: Tensor, width: int) -> tuple[float, float]:
    """The square that the leading columns have, and the mean of the probes' squares with its variance."""
    squares = columns.double().square().sum(0)
    probes = squares[width:]
    return float(squares[:width].sum() + probes.mean()), float(probes.var()) / len(probes)


def _square(matrix: Tensor) -> float:
    return math.fsum(float(piece @ piece) for piece in pieces(matrix))


def _overlap(one: _Decomposed, other: _Decomposed, k: int, shape: tuple[int, int]) -> Overlap | None:
    k = min(k, one.right.shape[1], other.right.shape[1])
    if not k:
        return None
    inputs = float((one.right[:, :k].T @ other.right[:, :k]).square().sum()) / k
    outputs = float((one.left[:, :k].T @ other.left[:, :k]).square().sum()) / k
    return Overlap(inputs, outputs, (k / shape[1], k / shape[0]))
