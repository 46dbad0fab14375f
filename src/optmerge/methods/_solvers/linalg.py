"""Dense linear algebra that the matrix methods share, and the precision they use it in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optmerge.deltas import Delta, LowRank
from optmerge.deltas.thin import gram, thin_qr
from optmerge.methods._parameters import share


def top_rank(shape: tuple[int, ...], fraction: float | None, experts: int) -> int:
    """k = ⌊min(m, n)·fraction⌋, at least 1; a fraction of None is 1/N, without its rounding."""
    smaller = min(shape)
    return max(1, smaller // experts if fraction is None else int(share(fraction, smaller)))


SMALL_SIDE = 512
"""Matrices whose smaller side is at most this are solved in float64, which costs next to nothing there."""


def solver_dtype(like: Tensor) -> torch.dtype:
    """Type to solve a matrix's problem in: float64 where it was given so or is cheap, float32 for large ones.

    A Gram matrix squares the condition, but what the solvers take from it (leading directions weighed by
    their values, smooth functions of eigenvalues) is insensitive: docs/explain/notebook.md has the errors.
    """
    small = min(like.shape) <= SMALL_SIDE
    return torch.float64 if like.dtype == torch.float64 or small else torch.float32


def solver_width(m: int, n: int) -> int:
    """Size of that type where the matrix is float32, in units of float32."""
    return 2 if min(m, n) <= SMALL_SIDE else 1


def squareness(m: int, n: int) -> float:
    """Entries of the smaller Gram matrix for each of the m×n matrix's own; 1 where it is square."""
    return min(m, n) ** 2 / max(1, m * n)


@dataclass(frozen=True, eq=False)
class TopSingular:
    """The leading singular triplets of an m×n matrix, τ ≈ left · diag(values) · rightᵀ.

    Args:
        left: (m, k) orthonormal columns.
        values: (k,) singular values, descending.
        right: (n, k) orthonormal columns.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def seen(self) -> Tensor:
        """S·Vᵀ, (k, n): what an expert's inputs see."""
        return self.values[:, None] * self.right.T


def top_singular(delta: Delta, k: int) -> TopSingular:
    """Top-k singular triplets of a delta; of factors without forming their product.

    Factors give only as many triplets as their rank. A small dense delta is decomposed in its own type, as
    published code does: where it is rank deficient (but not zero), all k triplets are returned and those of
    rounding noise are as arbitrary there as here. A large one goes through its Gram
    matrix, many times faster.
    """
    if isinstance(delta, LowRank):
        rows, upper = thin_qr(delta.up.to(torch.float64))
        columns, lower = thin_qr(delta.down.to(torch.float64).T)
        left, values, right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        k = min(k, int((values > max(delta.shape) * torch.finfo(torch.float64).eps * values[:1]).sum()))
        return TopSingular(rows @ left[:, :k], values[:k], columns @ right[:k].T)
    if min(delta.shape) > SMALL_SIDE:
        return leading_directions(delta.values, k)
    left, values, right = torch.linalg.svd(delta.values, full_matrices=False)
    k = k if float(values[0]) > 0 else 0
    kept = (left[:, :k], values[:k], right[:k].T)
    return TopSingular(*(part.to(torch.float64) for part in kept))


def leading_directions(matrix: Tensor, k: int) -> TopSingular:
    """Top-k singular triplets of a matrix, k ≥ 1, in its own type, from the Gram matrix of its smaller side.

    Singular values below √(max(m, n)·ε)·σ₁, which a Gram matrix of that type can't tell from zero, are left
    out with their vectors: for a method that weighs them by their value they don't exist.
    """
    tall = matrix.shape[0] >= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(gram(matrix if tall else matrix.T))  # ascending
    squares, vectors = squares[-k:].flip(0), vectors[:, -k:].flip(1)
    floor = max(matrix.shape) * torch.finfo(matrix.dtype).eps * squares[:1].clamp(min=0)
    kept = int((squares > floor).sum())
    values, vectors = squares[:kept].sqrt(), vectors[:, :kept].contiguous()
    if tall:
        return TopSingular((matrix @ vectors) / values, values, vectors)
    return TopSingular(vectors, values, (matrix.T @ vectors) / values)


def squared_norm(matrix: Tensor) -> float:
    """‖matrix‖²_F without a matrix of squares."""
    return float(matrix.flatten() @ matrix.flatten())


def polar_factor(matrix: Tensor) -> Tensor:
    """Nearest matrix with orthonormal columns, in float64; a partial isometry where it is rank deficient.

    U(UᵀU)^(−1/2), from the Gram matrix of the columns; equal to PQᵀ of the SVD PΛQᵀ without its
    arbitrary null directions.
    """
    matrix = matrix.to(torch.float64)
    squares, vectors = torch.linalg.eigh(gram(matrix))
    floor = max(matrix.shape) * torch.finfo(matrix.dtype).eps * squares[-1:].clamp(min=0)
    inverse = torch.where(squares > floor, squares.clamp(min=torch.finfo(squares.dtype).tiny).rsqrt(), 0.0)
    factor: Tensor = matrix @ ((vectors * inverse) @ vectors.T)
    return factor
