"""What is measured of one merged tensor: sums, from which figures of it and of whole layers are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optmerge.analysis.matrices import MatrixFigures, measure_matrix
from optmerge.deltas import Delta, LowRank, inner_product
from optmerge.engine.plan import TensorPlan
from optmerge.methods import Context
from optmerge.methods._apply import by_matrices

SAMPLE_ENTRIES = 1 << 18
"""Entries of a tensor at which signs and rounding are looked at, at most."""

SAMPLE_PARTS = 16
"""Ranges of rows that the sample is made of, evenly over the tensor."""

_CHUNK = 1 << 16

Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TensorSums:
    """One merged tensor, N experts; the merge is the last where there are N + 1.

    Args:
        tensor: which.
        scale: s.
        inner: (N + 1, N + 1) ⟨·, ·⟩ of the experts' deltas and s·M.
        base: ‖W₀‖²; None where it is 0 or isn't known.
        agreeing: (N, N) sampled entries at which both deltas have one sign.
        moving: (N, N) sampled entries at which both deltas aren't 0.
        lost: (N + 1,) Σ(rounded − wanted)² over the sample, for W₀ + τ stored as bfloat16.
        moved: (N + 1,) Στ² over the sample.
        sampled: share of the entries that were sampled.
        matrices: of each (outputs, inputs) matrix that the tensor holds; none for norms and biases.
    """

    tensor: TensorPlan
    scale: float
    inner: Sums
    base: float | None
    agreeing: Sums
    moving: Sums
    lost: Sums
    moved: Sums
    sampled: float
    matrices: tuple[MatrixFigures, ...]


def sample_ranges(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges of rows, evenly over a tensor, with at most `SAMPLE_ENTRIES` entries but one row at least."""
    rows = shape[0] if shape else 1
    width = math.prod(shape[1:])
    if rows * width <= SAMPLE_ENTRIES:
        return [(0, rows)]
    parts = max(1, min(SAMPLE_PARTS, SAMPLE_ENTRIES // width))
    each = max(1, SAMPLE_ENTRIES // (parts * width))
    return [(start, start + each) for start in (rows * index // parts for index in range(parts))]


def measure_tensor(
    tensor: TensorPlan,
    deltas: Sequence[Delta],
    scaled: Delta,
    base: Tensor,
    base_square: float | None,
    scale: float,
) -> TensorSums:
    """Everything that is known of one merged tensor.

    Args:
        tensor: which.
        deltas: of the experts, whole and unweighted; not modified.
        scaled: s·M.
        base: the rows of W₀ that `sample_ranges` names, one range after the other, float32 or float64.
        base_square: ‖W₀‖².
        scale: s.
    """
    everything = [*deltas, scaled]
    sample = torch.stack([_rows(each, sample_ranges(tensor.shape), tensor.shape) for each in everything])
    agreeing, moving = _signs(sample[:-1])
    lost, moved = _rounding(sample, base.flatten())
    return TensorSums(
        tensor=tensor,
        scale=scale,
        inner=_inner(everything),
        base=base_square or None,
        agreeing=agreeing,
        moving=moving,
        lost=lost,
        moved=moved,
        sampled=sample.shape[1] / max(1, math.prod(tensor.shape)),
        matrices=tuple(_matrices(tensor, everything)),
    )


def _rows(delta: Delta, ranges: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Tensor:
    """The entries of some rows, flat."""
    if isinstance(delta, LowRank):
        parts = [delta.up[start:stop] @ delta.down for start, stop in ranges]
    elif shape:
        parts = [delta.values[start:stop] for start, stop in ranges]
    else:
        parts = [delta.values]
    return torch.cat([part.flatten() for part in parts])


def _inner(deltas: Sequence[Delta]) -> Sums:
    """All inner products: of factors in float64, of dense deltas by products of chunks added in float64."""
    found = np.zeros((len(deltas), len(deltas)))
    if any(isinstance(each, LowRank) for each in deltas):
        for one, first in enumerate(deltas):
            for other, second in enumerate(deltas[: one + 1]):
                found[one, other] = found[other, one] = inner_product(first, second)
        return found
    flat = [each.dense().flatten() for each in deltas]
    for start in range(0, flat[0].numel(), _CHUNK):
        chunk = torch.stack([each[start : start + _CHUNK] for each in flat])
        found += (chunk @ chunk.T).double().numpy()
    return found


def _signs(sample: Tensor) -> tuple[Sums, Sums]:
    """(N, N) counts of entries at which two deltas have one sign, and at which neither is 0."""
    size = len(sample)
    agreeing, moving = np.zeros((size, size)), np.zeros((size, size))
    for start in range(0, sample.shape[1], _CHUNK):
        signs = sample[:, start : start + _CHUNK].sign().float()
        both = (signs.abs() @ signs.abs().T).double().numpy()
        agreeing += (both + (signs @ signs.T).double().numpy()) / 2
        moving += both
    return agreeing, moving


def _rounding(sample: Tensor, base: Tensor) -> tuple[Sums, Sums]:
    """Of each delta Σ(bf16(W₀ + τ) − W₀ − τ)² and Στ²."""
    lost, moved = np.zeros(len(sample)), np.zeros(len(sample))
    for start in range(0, sample.shape[1], _CHUNK):
        deltas, before = sample[:, start : start + _CHUNK], base[start : start + _CHUNK]
        wanted = before + deltas
        gap = (wanted.to(torch.bfloat16).to(wanted.dtype) - wanted).double()
        lost += gap.square().sum(1).numpy()
        moved += deltas.double().square().sum(1).numpy()
    return lost, moved


def _matrices(tensor: TensorPlan, deltas: Sequence[Delta]) -> list[MatrixFigures]:
    """The figures of each matrix that a tensor holds, in its order."""
    found: list[MatrixFigures] = []

    def look(matrices: Sequence[Delta], context: Context) -> Delta:
        found.append(measure_matrix(matrices[:-1], matrices[-1], f"{tensor.name}\0{len(found)}"))
        return matrices[0]

    if tensor.layout != "vector":
        by_matrices(look, deltas, Context(tensor=tensor.name, layout=tensor.layout))
    return found
