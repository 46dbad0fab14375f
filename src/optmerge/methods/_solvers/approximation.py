"""The gradient flow of the interaction on wide matrices, without an eigenproblem of their wide side.

The flow ends at M = M₀ + R φ(C), R = D − M₀C. Every eigenvalue of C matters, but where a matrix has many
inputs most of them are small, and φ hardly varies over them. So with leading eigenvectors V of eigenvalues Λ
and a polynomial p of degree 0 or 1,

    M ≈ M₀ + R p(C) + RV (φ(Λ) − p(Λ)) Vᵀ,   error² = Σ ‖Rq‖² (φ(λ) − p(λ))² over the other eigenvectors q.

One Krylov space of C gives V, the distribution of the eigenvalues, from random vectors, and that of ‖R‖² over
them, from random combinations of R's rows: a least-squares p, and its error, which is checked.

Source: Golub & Meurant 2010, "Matrices, moments and quadrature with applications", on Gauss quadrature by
Lanczos; Musco & Musco 2015, arXiv:1504.05477, on leading directions from a randomised block Krylov space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optmerge.methods._solvers.linalg import squared_norm
from optmerge.methods._solvers.quadratic import Filter, Start, in_solver_dtype, start_at

EXACT_SIDE = 4096
"""Side of the eigenproblem up to which it is solved, since that takes seconds."""

PROBES, STEPS = 16, 16
"""Rows of R, and random vectors, that a Krylov space starts from; products with C that span it."""

CONVERGED = 0.02
"""Residual ‖Cy − λy‖ of a direction that counts as an eigenvector, as a share of λ."""

MARGIN = 1.4
"""Factor on the estimated error, which has been up to a quarter too small (docs/explain/notebook.md)."""


def is_approximated(experts: int, m: int, n: int) -> bool:
    """Whether a matrix is so wide that its flow is approximated where the error allows."""
    return m < n and min(experts * m, n) > EXACT_SIDE


def approximation_work(experts: int, m: int, n: int) -> float:
    """Floating-point operations of one step along the gradient and the Krylov space."""
    size = 2 * PROBES * STEPS
    return 4.0 * experts * m * n * (m + size) + 4.0 * n * size**2 + 6.0 * m * n * size


def approximate_flow(
    deltas: Sequence[Tensor], start: Start, phi: Filter, top: int, tolerance: float
) -> Tensor | None:
    """Where the flow ends, (m, n), within an estimated error; None where that is larger than asked for.

    Args:
        deltas: (m, n).
        start: M₀.
        phi: (1 − exp(−λt))/λ for any eigenvalues.
        top: number of leading eigenvalues that move; on others φ is 0.
        tolerance: ‖error‖/‖M‖ that is allowed.
    """
    curvature = _Curvature.of(deltas)
    if not curvature.weights:
        return None
    begin = start_at(start, deltas)
    pulled = curvature.residual(begin)
    spectrum = _spectrum(curvature, pulled)
    wanted = phi(spectrum.values) * spectrum.kept(top / begin.shape[1])
    straight = _Fit.of(spectrum, wanted, phi, degree=0)
    merged = straight.moved(begin, pulled, spectrum)
    allowed = tolerance / MARGIN * math.sqrt(squared_norm(merged))
    if straight.error <= allowed:
        return merged
    bent = _Fit.of(spectrum, wanted, phi, degree=1)
    if bent.error > allowed:
        return None
    merged = bent.moved(begin, pulled, spectrum)
    return merged.add_(curvature.times(pulled), alpha=bent.coefficients[1])


@dataclass(frozen=True, eq=False)
class _Curvature:
    """C = Σ wᵢτᵢᵀτᵢ, never formed.

    Args:
        weights: wᵢ = 1/‖τᵢ‖² of experts with a delta.
        deltas: theirs, (m, n).
    """

    weights: list[float]
    deltas: list[Tensor]

    @classmethod
    def of(cls, deltas: Sequence[Tensor]) -> _Curvature:
        pairs = [(norm, delta) for delta in in_solver_dtype(deltas) if (norm := squared_norm(delta)) > 0]
        return cls([1 / norm for norm, _ in pairs], [delta for _, delta in pairs])

    def times(self, rows: Tensor) -> Tensor:
        """rows · C, (k, n)."""
        total = torch.zeros_like(rows)
        for weight, delta in zip(self.weights, self.deltas, strict=True):
            total.addmm_(rows @ delta.T, delta, alpha=weight)
        return total

    def residual(self, merged: Tensor) -> Tensor:
        """R = D − MC = Σ wᵢ(τᵢ − M)τᵢᵀτᵢ, (m, n)."""
        total = torch.zeros_like(merged)
        for weight, delta in zip(self.weights, self.deltas, strict=True):
            total.addmm_((delta - merged) @ delta.T, delta, alpha=weight)
        return total


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """What a Krylov space tells of C, and of R.

    Args:
        values: Ritz values, descending, float64; each stands for eigenvalues around it.
        energies: ‖R‖² that falls to each.
        shares: of the n eigenvalues, that each stands for.
        residuals: ‖yC − λy‖ of each direction.
        leading: eigenvectors of the first of them, (k, n).
    """

    values: Tensor
    energies: Tensor
    shares: Tensor
    residuals: Tensor
    leading: Tensor

    def kept(self, fraction: float) -> Tensor:
        """How much of each value's share lies among so large a fraction of the leading eigenvalues."""
        before = self.shares.cumsum(0) - self.shares
        tiny = torch.finfo(torch.float64).tiny
        return ((fraction - before) / self.shares.clamp(min=tiny)).clamp(0, 1)


def _spectrum(curvature: _Curvature, pulled: Tensor) -> _Spectrum:
    """A randomised block Krylov space of C, always the same for the same deltas."""
    m, n = pulled.shape
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (PROBES, m), generator=generator).mul_(2).sub_(1).to(pulled)
    random = torch.randn(PROBES, n, generator=generator).to(pulled)
    probes = signs @ pulled
    block = torch.cat([probes / probes.norm().clamp(min=torch.finfo(probes.dtype).tiny), random / n**0.5])
    basis, projected, rest = _krylov(curvature, block)
    values, vectors = torch.linalg.eigh(projected)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    residuals = (rest.double().T @ vectors[-rest.shape[0] :]).norm(dim=0)
    energies = (vectors.T @ (basis @ probes.T).double()).square().mean(1)
    shares = (vectors.T @ (basis @ random.T).double()).square().sum(1)
    count = int((residuals <= CONVERGED * values).cumprod(0).sum())
    shares[:count] = 1 / n
    shares[count:] *= (1 - count / n) / shares[count:].sum().clamp(min=torch.finfo(torch.float64).tiny)
    leading = vectors[:, :count].T.to(basis) @ basis
    return _Spectrum(values, energies, shares, residuals, leading)


def _krylov(curvature: _Curvature, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An orthonormal basis (K, n) of block·{1, C, C², …}, C in it (K, K) in float64, and what of the last
    block's product with C lies outside (its rows and those of the block are as many)."""
    size, n = block.shape
    steps = max(1, min(STEPS, n // size))
    basis = block.new_empty(steps * size, n)
    projected = torch.zeros(steps * size, steps * size, dtype=torch.float64, device=block.device)
    rest = block
    for step in range(steps):
        first, last = step * size, (step + 1) * size
        basis[first:last] = _orthonormal(rest, basis[:first])
        known = basis[:last]
        rest = curvature.times(basis[first:last])
        for _ in range(2):  # once more for what rounding left
            inside = rest @ known.T
            rest -= inside @ known
            projected[:last, first:last] += inside.T.double()
    upper = projected.triu()
    return basis, upper + upper.triu(1).T, rest


def _orthonormal(rows: Tensor, known: Tensor) -> Tensor:
    """Orthonormal rows that span these, orthogonal to known ones also where these are rounding noise."""
    found = torch.linalg.qr(rows.T)[0]
    if len(known):
        found = torch.linalg.qr(found - known.T @ (known @ found))[0]
    orthonormal: Tensor = found.T
    return orthonormal


@dataclass(frozen=True, eq=False)
class _Fit:
    """A polynomial in place of φ beyond the leading directions.

    Args:
        coefficients: of 1 and λ.
        corrections: φ − p of the leading eigenvalues.
        error: estimate of ‖R(φ − p)‖ over what isn't corrected, and of what corrections miss.
    """

    coefficients: list[float]
    corrections: Tensor
    error: float

    @classmethod
    def of(cls, spectrum: _Spectrum, wanted: Tensor, phi: Filter, degree: int) -> _Fit:
        values, count = spectrum.values, len(spectrum.leading)
        powers = torch.stack([values**power for power in range(degree + 1)], dim=1)
        weights = spectrum.energies.sqrt()[count:, None]
        solution = torch.linalg.pinv(powers[count:] * weights) @ (wanted[count:, None] * weights)
        missed = wanted - (powers @ solution)[:, 0]
        slack = spectrum.residuals[:count]
        slope = phi(values[:count] + slack) - phi((values[:count] - slack).clamp(min=0))
        squares = torch.cat([(slope / 2).square(), missed[count:].square()]) * spectrum.energies
        return cls(solution[:, 0].tolist(), missed[:count], math.sqrt(float(squares.sum())))

    def moved(self, begin: Tensor, pulled: Tensor, spectrum: _Spectrum) -> Tensor:
        """M₀ + p₀R + RV(φ(Λ) − p(Λ))Vᵀ."""
        corrected = (pulled @ spectrum.leading.T) * self.corrections.to(pulled)
        return torch.addmm(begin, corrected, spectrum.leading).add_(pulled, alpha=self.coefficients[0])
