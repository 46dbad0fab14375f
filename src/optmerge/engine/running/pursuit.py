"""Orthogonal matching pursuit: vectors as combinations of few rows of a table that is read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MOST = 64
"""Rows of a combination at most."""

ENOUGH = 1e-6
"""Share of a vector's norm below which what is left of it counts as rounding."""

Combination = tuple[list[int], Tensor]
"""Numbers of the rows in the order in which they were taken, and (rows,) float64 factors."""


def combinations(
    vectors: Tensor, table: Callable[[], Iterable[tuple[int, Tensor]]], most: int = MOST
) -> list[Combination]:
    """For each vector, rows of a table and factors such that Σ factorⱼ·rowⱼ is near it.

    Each step takes the row that is most parallel to what is left of the vector, and fits all rows taken by
    least squares. The table is read once for each step, for all vectors together.

    Args:
        vectors: (vectors, n) float64.
        table: gives the table's blocks, (rows, n) float64, each with the number of its first row.
        most: rows of a combination at most.

    Source: Pati, Rezaiifar and Krishnaprasad 1993, Orthogonal matching pursuit.
    """
    count, width = vectors.shape
    found: list[Combination] = [([], vectors.new_zeros(0)) for _ in range(count)]
    rows = [vectors.new_zeros(0, width) for _ in range(count)]
    left, enough = vectors.clone(), ENOUGH * vectors.norm(dim=1)
    for _ in range(min(most, width)):
        open_ones = [each for each in range(count) if float(left[each].norm()) > float(enough[each])]
        taken = _most_parallel(left, open_ones, [chosen for chosen, _ in found], table)
        for each, (number, row) in taken.items():
            rows[each] = torch.cat([rows[each], row[None]])
            factors = torch.linalg.lstsq(rows[each].T, vectors[each, :, None]).solution[:, 0]
            found[each] = ([*found[each][0], number], factors)
            left[each] = vectors[each] - factors @ rows[each]
        if not taken:
            break
    return found


def _most_parallel(
    left: Tensor,
    open_ones: list[int],
    chosen: list[list[int]],
    table: Callable[[], Iterable[tuple[int, Tensor]]],
) -> dict[int, tuple[int, Tensor]]:
    """Number and values of the row most parallel to each open vector, if any isn't orthogonal to it."""
    best: dict[int, tuple[float, int, Tensor]] = {}
    for start, block in table() if open_ones else ():
        norms = block.norm(dim=1, keepdim=True).clamp(min=torch.finfo(block.dtype).tiny)
        alike = (block @ left[open_ones].T).abs() / norms  # (rows, open)
        for column, each in enumerate(open_ones):
            alike[[n - start for n in chosen[each] if 0 <= n - start < len(block)], column] = 0
            place = int(alike[:, column].argmax())
            value = float(alike[place, column])
            if value > best.get(each, (0.0,))[0]:
                best[each] = value, start + place, block[place].clone()
    return {each: (number, row) for each, (_, number, row) in best.items()}
