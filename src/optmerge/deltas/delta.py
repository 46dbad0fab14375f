"""A task vector: what fine-tuning changed in one tensor, dense or as two thin factors.

Methods see nothing but deltas. A delta that arrives as factors (an adapter) stays factors for as long as
the mathematics allows; `Delta.dense()` is the only place where an m×n product of factors is formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from optmerge.deltas.thin import thin_qr

PIECE_ELEMENTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Dense:
    """A delta held entry by entry.

    Args:
        values: expert − base, float32 or float64, any shape, on any device. Deltas that are merged together
            must be on one device and of one type; `as_deltas` makes the type one.
    """

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor the delta belongs to."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the entries, float32 or float64."""
        return self.values.dtype

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Tensors that hold the delta: `values` alone."""
        return (self.values,)

    def dense(self) -> Tensor:
        """The delta entry by entry; shares memory with `values`."""
        return self.values

    def scaled(self, factor: float) -> Dense:
        """factor·τ; the same object when the factor is one."""
        return self if factor == 1 else Dense(self.values * factor)

    def to(self, dtype: torch.dtype) -> Dense:
        """The same delta in another float type."""
        return self if dtype == self.dtype else Dense(self.values.to(dtype))

    def squared_norm(self) -> float:
        """‖τ‖²_F in float64."""
        return inner_product(self, self)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A delta held as factors, τ = up · down; rank 0 is an exact zero.

    Args:
        up: (m, r), float32 or float64, on any device; together with others as for `Dense`.
        down: (r, n), of the type of `up` and on its device.
        full_shape: shape of the tensor when it isn't (m, n), as for convolutions (m, c, h, w), n = c·h·w.
    """

    up: Tensor
    down: Tensor
    full_shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor the delta belongs to."""
        return self.full_shape or (self.up.shape[0], self.down.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Type of both factors, float32 or float64."""
        return self.up.dtype

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Tensors that hold the delta: `up` and `down`."""
        return (self.up, self.down)

    @property
    def rank(self) -> int:
        """Number of columns of `up`: an upper bound of the rank."""
        return self.up.shape[1]

    def dense(self) -> Tensor:
        """The product, entry by entry, in the delta's shape."""
        return (self.up @ self.down).reshape(self.shape)

    def scaled(self, factor: float) -> LowRank:
        """factor·τ; the same object when the factor is one."""
        return self if factor == 1 else LowRank(self.up * factor, self.down, self.full_shape)

    def to(self, dtype: torch.dtype) -> LowRank:
        """The same delta in another float type."""
        if dtype == self.dtype:
            return self
        return LowRank(self.up.to(dtype), self.down.to(dtype), self.full_shape)

    def squared_norm(self) -> float:
        """‖τ‖²_F in float64, without forming the product."""
        return max(0.0, inner_product(self, self))


Delta = Dense | LowRank


def as_deltas(deltas: Tensor | Sequence[Tensor | Delta]) -> list[Delta]:
    """An (N, …) tensor, or a sequence of tensors and deltas, as a list of deltas of one float type.

    The type is float64 where one of them is float64, else float32, also for integers and half precision.
    Nothing changes device.
    """
    given = [delta if isinstance(delta, Dense | LowRank) else Dense(delta) for delta in deltas]
    wide = any(delta.dtype == torch.float64 for delta in given)
    return [delta.to(torch.float64 if wide else torch.float32) for delta in given]


def linear_combination(deltas: Sequence[Delta], factors: Sequence[float]) -> Delta:
    """Σ factorᵢ·τᵢ; factors side by side when every delta is low-rank, dense otherwise.

    The sum runs in the order given, in the deltas' own type.
    """
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) == len(deltas):
        up = torch.cat([delta.up * factor for delta, factor in zip(low, factors, strict=True)], dim=1)
        return LowRank(up, torch.cat([delta.down for delta in low]), low[0].full_shape)
    total = deltas[0].parts[0].new_zeros(deltas[0].shape)
    for delta, factor in zip(deltas, factors, strict=True):
        if isinstance(delta, LowRank):
            matrix = total.view(delta.up.shape[0], delta.down.shape[1])
            matrix.addmm_(delta.up, delta.down, alpha=factor)
        else:
            total.add_(delta.values, alpha=factor)
    return Dense(total)


def inner_product(first: Delta, second: Delta) -> float:
    """⟨τ₁, τ₂⟩ in float64; factors without forming their products, dense deltas a piece at a time."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        ups = first.up.to(torch.float64).T @ second.up.to(torch.float64)
        downs = first.down.to(torch.float64) @ second.down.to(torch.float64).T
        return float((ups * downs).sum())
    return sum(
        float(one.to(torch.float64) @ other.to(torch.float64))
        for one, other in zip(pieces(first.dense()), pieces(second.dense()), strict=True)
    )


def pieces(values: Tensor) -> Iterator[Tensor]:
    """The entries in order, flat, at most 2¹⁸ at a time: a float64 copy of them takes at most 2 MiB."""
    flat = values.flatten()
    for start in range(0, flat.numel(), PIECE_ELEMENTS):
        yield flat[start : start + PIECE_ELEMENTS]


def mean(deltas: Sequence[Delta]) -> Delta:
    """The sum in the order given, divided by N as published code does it."""
    total = linear_combination(deltas, [1.0] * len(deltas))
    if isinstance(total, LowRank):
        return total.scaled(1 / len(deltas))
    return Dense(total.values.div_(len(deltas)))


def zero_like(deltas: Sequence[Delta]) -> LowRank:
    """An exact zero of the deltas' shape and type, as factors of rank 0."""
    shape, some = deltas[0].shape, deltas[0].parts[0]
    return LowRank(some.new_zeros(shape[0], 0), some.new_zeros(0, prod(shape[1:])), shape)


@dataclass(frozen=True, eq=False)
class FactorSpace:
    """Low-rank deltas in the coordinates of their joint row and column spaces.

    τᵢ = rows · coreᵢ · columnsᵀ with orthonormal `rows` (m, R) and `columns` (n, R), R = Σ rᵢ, so every
    method that commutes with orthogonal changes of basis can work on the R×R cores.
    """

    rows: Tensor
    cores: list[Tensor]
    columns: Tensor
    full_shape: tuple[int, ...] | None

    @classmethod
    def of(cls, deltas: Sequence[LowRank]) -> FactorSpace:
        """Two thin QR decompositions; float64 throughout, since everything after it is small."""
        ups = [delta.up.to(torch.float64) for delta in deltas]
        downs = [delta.down.to(torch.float64) for delta in deltas]
        rows, row_parts = thin_qr(torch.cat(ups, dim=1))  # (m, R), (R, R)
        columns, column_parts = thin_qr(torch.cat(downs).T)  # (n, R), (R, R)
        ranks = [delta.rank for delta in deltas]
        cores = [
            left @ right.T
            for left, right in zip(
                torch.split(row_parts, ranks, 1), torch.split(column_parts, ranks, 1), strict=True
            )
        ]
        return cls(rows, cores, columns, deltas[0].full_shape)

    def expand(self, core: Tensor, dtype: torch.dtype) -> LowRank:
        """rows · core · columnsᵀ as factors."""
        return LowRank((self.rows @ core).to(dtype), self.columns.T.to(dtype), self.full_shape)
