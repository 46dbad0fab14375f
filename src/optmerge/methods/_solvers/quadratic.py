"""The quadratic that WUDI, OptMerge, SWUDI and ASWUDI minimise, and its closed-form solutions.

    loss(M) = Σ wᵢ ‖(M − Tᵢ)Lᵢᵀ‖²_F,   ∇loss = 2(MC − D),   C = Σ wᵢ LᵢᵀLᵢ,   D = Σ wᵢ TᵢLᵢᵀLᵢ

With F the rows √wᵢ·Lᵢ of all experts and E the columns √wᵢ·TᵢLᵢᵀ: C = FᵀF and D = EF. Every linear
iteration that starts at M₀ ends, for C = QΛQᵀ, at

    M = M₀ + (D − M₀C) Q φ(Λ) Qᵀ            (primal, n×n)
      = M₀ + (E − M₀Fᵀ) P φ(Λ) Pᵀ F          (dual, R×R, from FFᵀ = PΛPᵀ)

for a scalar function φ, so the smaller of the two eigenproblems is the only one ever solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, FactorSpace, LowRank, zero_like
from optmerge.deltas.thin import gram
from optmerge.errors import MethodError
from optmerge.methods._solvers.linalg import solver_dtype, solver_width, squared_norm

Start = Literal["sum", "mean", "zero"]
"""M₀."""

Filter = Callable[[Tensor], Tensor]
"""φ: eigenvalues in descending order, (K,) → (K,)."""

FLAT = 1e-9
"""λt below which φ(λ) is t in float64."""


@dataclass(frozen=True, eq=False)
class Term:
    """One expert's part of the loss.

    Args:
        weight: wᵢ.
        seen: Lᵢ, (k, n): what the expert's inputs see.
        pull: TᵢLᵢᵀ, (m, k).
    """

    weight: float
    seen: Tensor
    pull: Tensor


@dataclass(frozen=True, eq=False)
class Primal:
    """C (n, n) and D (m, n)."""

    curvature: Tensor
    target: Tensor

    def gradient(self, merged: Tensor) -> Tensor:
        """2(MC − D), (m, n)."""
        gradient: Tensor = torch.addmm(self.target, merged, self.curvature, beta=-2, alpha=2)
        return gradient

    def to(self, dtype: torch.dtype) -> Primal:
        """The same in another float type."""
        return Primal(self.curvature.to(dtype), self.target.to(dtype))

    def rows(self, start: int, stop: int) -> Primal:
        """The part of the problem that is about some rows of M; rows don't know of each other."""
        return Primal(self.curvature, self.target[start:stop])

    def for_steps(self) -> Primal:
        """The form in which a gradient costs least: this."""
        return self

    def solve(self, start: Tensor, phi: Filter) -> Tensor:
        """M₀ + (D − M₀C) Q φ(Λ) Qᵀ, (m, n)."""
        values, vectors = torch.linalg.eigh(self.curvature)
        residual = torch.addmm(self.target, start, self.curvature, alpha=-1)
        moved: Tensor = (residual @ vectors).mul_(_descending(phi, values)) @ vectors.T
        return moved.add_(start)


@dataclass(frozen=True, eq=False)
class Dual:
    """F (R, n) and E (m, R), R < n."""

    seen: Tensor
    pull: Tensor

    def gradient(self, merged: Tensor) -> Tensor:
        """2(MFᵀ − E)F, (m, n)."""
        residual = torch.addmm(self.pull, merged, self.seen.T, beta=-2, alpha=2)  # (m, R)
        gradient: Tensor = residual @ self.seen
        return gradient

    def to(self, dtype: torch.dtype) -> Dual:
        """The same in another float type."""
        return Dual(self.seen.to(dtype), self.pull.to(dtype))

    def rows(self, start: int, stop: int) -> Dual:
        """The part of the problem that is about some rows of M; rows don't know of each other."""
        return Dual(self.seen, self.pull[start:stop])

    def for_steps(self) -> Quadratic:
        """The form in which a gradient costs least: m×n×n operations, or twice m×n×R."""
        if 2 * len(self.seen) < self.seen.shape[1]:
            return self
        return Primal(gram(self.seen), self.pull @ self.seen)

    def expand(self, space: FactorSpace) -> Dual:
        """From the coordinates of a factor space to those of the tensor."""
        return Dual(self.seen @ space.columns.T, space.rows @ self.pull)

    def solve(self, start: Tensor, phi: Filter) -> Tensor:
        """M₀ + (E − M₀Fᵀ) P φ(Λ) Pᵀ F, (m, n)."""
        values, vectors = torch.linalg.eigh(gram(self.seen.T))
        residual = torch.addmm(self.pull, start, self.seen.T, alpha=-1)  # (m, R)
        filtered = (vectors * _descending(phi, values)) @ (vectors.T @ self.seen)  # (R, n): no product with m
        return torch.addmm(start, residual, filtered)


Quadratic = Primal | Dual


def _descending(phi: Filter, ascending: Tensor) -> Tensor:
    """φ of the eigenvalues as `eigh` orders them."""
    return phi(ascending.flip(0).clamp(min=0)).flip(0)


def build(terms: Iterable[Term], like: Tensor, rank: int) -> Quadratic:
    """The quadratic in its smaller form; see `build_dual` for the arguments."""
    return build_dual(terms, like, rank) if rank <= like.shape[1] else build_primal(terms, like)


def build_dual(terms: Iterable[Term], like: Tensor, rank: int) -> Dual:
    """F and E, filled in place, since a list of their parts would double the memory.

    Args:
        terms: one per expert with a delta, read once.
        like: any (m, n) matrix on the terms' device.
        rank: R = Σ kᵢ, or a bound of it.
    """
    m, n = like.shape
    seen, pull = (like.new_empty(size, dtype=solver_dtype(like)) for size in ((rank, n), (m, rank)))
    used = 0
    for term in terms:
        following = used + len(term.seen)
        torch.mul(term.seen, term.weight**0.5, out=seen[used:following])
        pull[:, used:following] = term.pull * term.weight**0.5
        used = following
    return Dual(seen[:used], pull[:, :used])


def build_primal(terms: Iterable[Term], like: Tensor) -> Primal:
    """C and D, added up term by term."""
    m, n = like.shape
    curvature, target = (like.new_zeros(size, n, dtype=solver_dtype(like)) for size in (n, m))
    for term in terms:
        curvature.addmm_(term.seen.T, term.seen, alpha=term.weight)
        target.addmm_(term.pull, term.seen, alpha=term.weight)
    return Primal(curvature, target)


def interaction(
    deltas: Sequence[Tensor], weight: Callable[[float], float] = lambda squares: 1 / squares
) -> Quadratic:
    """The quadratic of WUDI, Tᵢ = Lᵢ = τᵢ, from (m, n) matrices, one at a time.

    An expert without a delta has no term.

    Args:
        deltas: τᵢ.
        weight: ‖τᵢ‖² → wᵢ; WUDI's by default.
    """
    m, n = deltas[0].shape
    weighted = (
        (weight(norm), delta) for delta in in_solver_dtype(deltas) if (norm := squared_norm(delta)) > 0
    )
    if m * len(deltas) <= n:
        terms = (Term(factor, delta, gram(delta.T)) for factor, delta in weighted)
        return build_dual(terms, deltas[0], m * len(deltas))
    dtype = solver_dtype(deltas[0])
    curvature, target = (deltas[0].new_zeros(size, n, dtype=dtype) for size in (n, m))
    for factor, delta in weighted:
        squares = gram(delta)  # serves both C and D, so that nothing is m×m
        curvature.add_(squares, alpha=factor)
        target.addmm_(delta, squares, alpha=factor)
    return Primal(curvature, target)


def solve_interaction(deltas: Sequence[Tensor], start: Start, phi: Filter) -> Tensor:
    """M₀ + (D − M₀C) Q φ(Λ) Qᵀ of WUDI's quadratic, (m, n), in whichever form costs least."""
    m, n = deltas[0].shape
    if is_mixed(len(deltas), m, n):
        return _mixed(deltas, start, phi)
    return interaction(deltas).solve(start_at(start, deltas), phi)


def is_mixed(experts: int, m: int, n: int) -> bool:
    """Whether M is cheaper as Σ τᵢAᵢ, which takes N products of n×n×n where D and M₀ take three of m×n×n."""
    return experts * n < 3 * m and experts * m > n


def _mixed(deltas: Sequence[Tensor], start: Start, phi: Filter) -> Tensor:
    """M = Σ τᵢAᵢ, Aᵢ = s(I − CK) + wᵢτᵢᵀτᵢK, K = Qφ(Λ)Qᵀ, where M₀ = s Σ τᵢ: nothing of D's size is held."""
    n = deltas[0].shape[1]
    dtype = solver_dtype(deltas[0])
    curvature = deltas[0].new_zeros(n, n, dtype=dtype)
    moved: list[tuple[Tensor, Tensor]] = []
    for original, delta in zip(deltas, in_solver_dtype(deltas), strict=True):
        norm = squared_norm(delta)
        if norm > 0:
            squares = gram(delta).div_(norm)
            curvature.add_(squares)
            moved.append((original, squares))
    values, vectors = torch.linalg.eigh(curvature)
    kernel = (vectors * _descending(phi, values)) @ vectors.T
    factor = {"sum": 1.0, "mean": 1 / len(deltas), "zero": 0.0}[start]
    del values, vectors
    common = torch.mm(curvature, kernel).mul_(-factor)
    common.diagonal().add_(factor)
    merged = deltas[0].new_zeros(deltas[0].shape, dtype=dtype)
    for delta, squares in moved:
        merged.addmm_(delta.to(dtype), torch.addmm(common, squares, kernel, out=curvature))
    return merged


def interaction_workspace(experts: int, m: int, n: int, parameters: Mapping[str, Any]) -> float:
    """Tensor-sized float32 arrays that `solve_interaction` holds."""
    if is_mixed(experts, m, n):
        return (2.0 + (experts + 4.5) * n / m) * solver_width(m, n)
    return eigen_workspace(experts, m, n)


def eigen_workspace(experts: int, m: int, n: int) -> float:
    """Tensor-sized float32 arrays that an `Interaction` and its solution hold: some of the tensor's size,
    matrices of the eigenproblem's side, and F where it is dual."""
    dual = experts * m <= n
    side = experts * m if dual else n
    return (5.5 + 3.5 * side**2 / (m * n) + dual * experts) * solver_width(m, n)


def interaction_work(experts: int, m: int, n: int) -> float:
    """Floating-point operations of the closed form of the interaction."""
    if is_mixed(experts, m, n):
        return experts * (3.0 * m * n * n + 2.0 * n**3) + 14.0 * n**3
    dual = experts * m <= n
    side = experts * m if dual else n
    products = (side**2 + 4.0 * m * side) * n if dual else (3.0 * experts + 6.0) * m * n * n
    return products + 10.0 * side**3


def in_solver_dtype(matrices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each in the type its problem is solved in, one at a time."""
    for matrix in matrices:
        yield matrix.to(solver_dtype(matrix))


def start_at(name: Start, deltas: Sequence[Tensor]) -> Tensor:
    """M₀: the `sum` or `mean` of the deltas, or `zero`, in the type the problem is solved in."""
    total = torch.zeros_like(deltas[0], dtype=solver_dtype(deltas[0]))
    if name != "zero":
        for delta in deltas:
            total += delta
    return total.div_(len(deltas)) if name == "mean" else total


def sgd_filter(steps: int, lr: float, momentum: float) -> Filter:
    """φ(λ) = (1 − e)/λ after `steps` steps of SGD with momentum on a quadratic of curvature λ.

    From e = 1, v = 0: v ← μv + 2λe, e ← e − lr·v. Written for φ itself, e = 1 − λφ, so that nothing is
    divided by λ and the limit λ → 0 is exact.

    Raises:
        MethodError: the steps diverge at this learning rate.
    """

    def phi(values: Tensor) -> Tensor:
        if values.numel() and lr * float(values.max()) >= 1 + momentum:
            raise MethodError(
                "SGD diverges at this learning rate",
                where="parameter lr",
                got=lr,
                expected=f"below {(1 + momentum) / float(values.max()):.3g} (= (1 + momentum)/λ_max)",
                hint="lower lr",
            )
        moved = torch.zeros_like(values)
        velocity = torch.zeros_like(values)
        for _ in range(steps):
            velocity = momentum * velocity + 2 * (1 - values * moved)
            moved = moved + lr * velocity
        return moved

    return phi


def converged_filter(share: float, rank: int) -> Filter:
    """φ(λ) = (1 − exp(−λt))/λ at the time t at which directions of mean curvature are solved up to a share.

    t = −log(1 − share)/μ with μ = Σλ/rank, so neither the deltas' length nor the width of the matrix matters.

    Args:
        share: in [0, 1).
        rank: number of directions that C has curvature in.
    """

    def phi(values: Tensor) -> Tensor:
        mean = float(values.sum()) / max(1, rank)
        if mean == 0:
            return torch.zeros_like(values)
        time = -math.log1p(-share) / mean
        flat = values * time < FLAT
        return torch.where(flat, time, -torch.expm1(-values * time) / values.masked_fill(flat, 1.0))

    return phi


def in_factor_space(deltas: Sequence[Delta], solve: Callable[[list[Tensor]], Tensor]) -> Delta:
    """Runs a solver that commutes with orthogonal changes of basis where the deltas are smallest.

    Low-rank deltas whose ranks add up to less than min(m, n) are solved in their joint factor space and come
    back as factors; others as they are. The solver sees matrices of either float type.
    """
    space = joint_factor_space(deltas)
    dtype = deltas[0].dtype
    if space is None:
        return Dense(solve([delta.dense() for delta in deltas]).to(dtype))
    if space.rows.shape[1] == 0:
        return zero_like(deltas)
    return space.expand(solve(space.cores), dtype)


def joint_factor_space(deltas: Sequence[Delta]) -> FactorSpace | None:
    """The joint factor space of low-rank deltas; None where working in it wouldn't be smaller."""
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) < len(deltas) or sum(delta.rank for delta in low) >= min(deltas[0].shape):
        return None
    return FactorSpace.of(low)
