"""Products and decompositions of tall thin matrices, for less work than the general ones."""

from __future__ import annotations

import torch
from torch import Tensor

LEAF = 112
"""Columns below which a Gram matrix isn't split any more."""

WELL_CONDITIONED = 1e-4
"""Smallest ratio of the least to the greatest diagonal entry of a Cholesky factor that is used for Q. The
orthogonality error of Q is about ε/ratio², with ε = 1e-16 the rounding of float64: at most 1e-8."""


def gram(matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """AᵀA, (n, n). Blocks below the diagonal are copied from above it: almost half of the work is saved."""
    n = matrix.shape[1]
    out = matrix.new_empty(n, n) if out is None else out
    if n <= LEAF:
        return torch.mm(matrix.T, matrix, out=out)
    half = n // 2
    left, right = matrix[:, :half], matrix[:, half:]
    gram(left, out[:half, :half])
    gram(right, out[half:, half:])
    torch.mm(left.T, right, out=out[:half, half:])
    out[half:, :half].copy_(out[:half, half:].T)
    return out


def thin_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A = QR with Q (m, R) orthonormal and R square, of a float64 matrix (m, R).

    Where the columns are far enough from linearly dependent, R is the Cholesky factor of AᵀA, which is a few
    times faster than Householder's QR. Q·R is A to rounding either way.

    Source: Stathopoulos & Wu 2002, "A block orthogonalization procedure".
    """
    if matrix.shape[0] > matrix.shape[1] > 0:
        lower, failed = torch.linalg.cholesky_ex(gram(matrix))
        diagonal = lower.diagonal()
        if not int(failed) and float(diagonal.min()) > WELL_CONDITIONED * float(diagonal.max()):
            upper = lower.T
            return torch.linalg.solve_triangular(upper, matrix, upper=True, left=False), upper
    rows, upper = torch.linalg.qr(matrix)
    return rows, upper
