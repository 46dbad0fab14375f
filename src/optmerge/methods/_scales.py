"""The scale of a merge from the deltas and their merge alone, without data.

A method declares one of four rules (`AutoRule`). Each is a function of the weighted deltas τᵢ and of M, the
merged delta before scale:

* `decorrelating`: s = √(Σ‖τᵢ‖²)/‖M‖ = √N·rms‖τᵢ‖/‖M‖. The merge becomes as long as N experts that are
  orthogonal to each other. An expert without a delta counts in neither form.
* `sum` and `ties`: s = factor·Σwᵢ⟨τᵢᵀτᵢ, τᵢᵀM⟩/Σwᵢ‖τᵢᵀM‖², wᵢ = 1/‖τᵢᵀτᵢ‖². The fraction is the least-squares
  solution of s·τᵢᵀM = τᵢᵀτᵢ: at that scale M moves what an expert's outputs move in by as much as the expert
  does. wᵢ is taken without the expert's weight, so that an expert whose weight goes to 0 leaves the sums.
* `own`: s = 1. M minimises a loss, or lies between two experts, so its length isn't arbitrary.

What holds no matrix (norms, biases) has no outputs to compare. Its scale is the least-squares solution of
s·M = τᵢ over the experts that change it: the mean keeps its length, the sum becomes the mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, inner_product
from optmerge.deltas.thin import gram
from optmerge.methods._context import Layout

AutoRule = Literal["decorrelating", "sum", "ties", "own"]

FACTORS: dict[AutoRule, float] = {"sum": 1.1, "ties": 1.3}
"""Factors on the least-squares scale, fitted to validation scores of all lines (docs/explain/notebook.md)."""

RULE_WORDS: dict[AutoRule, str] = {
    "decorrelating": "√N rule: as long as N orthogonal experts",
    "sum": "1.1 × least squares on what the experts' outputs share",
    "ties": "1.3 × least squares on what the experts' outputs share",
    "own": "the method's own length",
}
"""Rules for people."""

FAR = 1.6
"""Length, in units of the median expert's, beyond which an expert went far. The benchmark's gentle experts
have at most 1.59, its far ones 2.1 and 2.5. Evidence: docs/how-to/choose-a-scale.md."""


def caution(lengths: Sequence[float]) -> float:
    """Factor on the √N rule's scale where single experts went far; 1 where none did.

    By the √N rule a merge is as long as all experts side by side, so one that went far decides it. Therefore
    an expert of r medians counts as one of FAR²/r where r > FAR, down to the median itself:
    √(Σℓᵢ²/Σ‖τᵢ‖²), ℓᵢ what it counts as.

    Args:
        lengths: ‖τᵢ‖ over all merged tensors, weights applied; those that are 0 don't count.
    """
    moved = [length for length in lengths if length > 0]
    if not moved:
        return 1.0
    middle = median(moved)
    counted = [
        length if length <= FAR * middle else middle * max(1.0, FAR**2 * middle / length) for length in moved
    ]
    if counted == moved:
        return 1.0
    return math.sqrt(math.fsum(each**2 for each in counted) / math.fsum(each**2 for each in moved))


def scale_of(
    rule: AutoRule, deltas: Sequence[Delta], weights: Sequence[float], merged: Delta, layout: Layout
) -> float:
    """Scale of one tensor by a rule; 1 where M is 0.

    Args:
        rule: which.
        deltas: weighted, of the whole tensor.
        weights: what each delta was multiplied by.
        merged: M.
        layout: how the tensor holds matrices.
    """
    if layout == "vector":
        return least_squares(nearness(deltas, merged))
    if rule == "decorrelating":
        length = merged.squared_norm()
        return math.sqrt(math.fsum(each.squared_norm() for each in deltas) / length) if length else 1.0
    if rule == "own":
        return 1.0
    terms: list[ScaleTerm] = []
    for *matrices, target in _matrices([*deltas, merged], layout):
        terms += [_term(delta, weight, target) for delta, weight in zip(matrices, weights, strict=True)]
    return FACTORS[rule] * least_squares(terms)


@dataclass(frozen=True)
class ScaleTerm:
    """One expert's part of a least-squares scale, in one matrix.

    Args:
        top: wᵢ⟨τᵢᵀτᵢ, τᵢᵀM⟩.
        bottom: wᵢ‖τᵢᵀM‖².
    """

    top: float
    bottom: float


def least_squares(terms: Sequence[ScaleTerm]) -> float:
    """Σtop/Σbottom in the order given; 1 where the experts' outputs share nothing with M."""
    bottom = math.fsum(term.bottom for term in terms)
    return math.fsum(term.top for term in terms) / bottom if bottom > 0 else 1.0


def nearness(deltas: Sequence[Delta], merged: Delta) -> list[ScaleTerm]:
    """Terms of the scale at which M is nearest to the experts that change a tensor without matrices."""
    length = merged.squared_norm()
    target = Dense(merged.dense())
    moved = [Dense(each.dense()) for each in deltas if each.squared_norm() > 0]
    return [ScaleTerm(inner_product(each, target), length) for each in moved]


def _term(delta: Delta, weight: float, merged: Delta) -> ScaleTerm:
    """A matrix's term, from the products of the smaller side or of factors: never m×n beyond the deltas."""
    if isinstance(delta, LowRank):
        up, down = delta.up.double(), delta.down.double()
        seen = up.T @ up @ down @ down.T  # HG of τ = up·down, H = upᵀup, G = down·downᵀ
        if isinstance(merged, LowRank):
            shared = (up.T @ merged.up.double()) @ merged.down.double()
        else:
            shared = (delta.up.T @ merged.dense()).double()  # (r, n)
        own = float((seen.T * seen).sum())
        top = float((seen.T * (shared @ down.T)).sum())
        bottom = float(((down @ down.T) * (shared @ shared.T)).sum())
    else:
        mine, other = delta.values, merged.dense()
        if mine.shape[0] >= mine.shape[1]:
            squares, crossed = gram(mine), mine.T @ other
            top, bottom = _dot(squares, crossed), _dot(crossed, crossed)
        else:  # the same by products of rows: ‖τᵀM‖² = ⟨ττᵀ, MMᵀ⟩
            squares = gram(mine.T)
            top, bottom = _dot(squares, mine @ other.T), _dot(squares, gram(other.T))
        own = _dot(squares, squares)
    return _weighted(own, top, bottom, weight)


def _weighted(own: float, top: float, bottom: float, weight: float) -> ScaleTerm:
    """The term with wᵢ, from ‖τᵢᵀτᵢ‖² of the weighted delta."""
    unweighted = own / weight**4 if weight else 0.0
    return ScaleTerm(top / unweighted, bottom / unweighted) if unweighted > 0 else ScaleTerm(0.0, 0.0)


def _dot(first: Tensor, second: Tensor) -> float:
    return inner_product(Dense(first), Dense(second))


def _matrices(deltas: Sequence[Delta], layout: Layout) -> Iterator[list[Delta]]:
    """The (outputs, inputs) matrices that a tensor, or some of its rows, holds."""
    if layout in ("stack", "transposed_stack"):
        stacks = [delta.dense() for delta in deltas]
        for index in range(stacks[0].shape[0]):
            parts = [stack[index] for stack in stacks]
            yield [Dense(part.T if layout == "transposed_stack" else part) for part in parts]
    else:
        yield [_matrix(delta, transposed=layout == "transposed") for delta in deltas]


def _matrix(delta: Delta, *, transposed: bool) -> Delta:
    if isinstance(delta, LowRank):
        return LowRank(delta.down.T, delta.up.T) if transposed else LowRank(delta.up, delta.down)
    values = delta.values.flatten(start_dim=1)
    return Dense(values.T if transposed else values)


SKETCH, EXACT_ENTRIES = 32, 1 << 24
"""Width of a sketch, at least, and width times entries of a matrix up to which a sketch is wider."""


class Interaction:
    """The terms of one tensor from a single look at each of its slices, for methods that merge slices.

    ‖τᵢᵀM‖² is estimated as ‖Pᵀτᵢᵀ·MQ‖² with random signs P and Q (inputs × width), the same for every expert,
    so that the work is that of a few thin products. Where the width reaches the number of inputs nothing is
    estimated. Slices must come in order, and always the same ones: sums of floats depend on their order.

    Args:
        shape: of the tensor.
        layout: how it holds matrices; not `vector`.
        name: of the tensor; seeds the signs.

    Source: Clarkson & Woodruff 2009, "Numerical linear algebra in the streaming model", on sketches.
    """

    def __init__(self, shape: tuple[int, ...], layout: Layout, name: str) -> None:
        self._layout = layout
        rows, columns = _sides_of(shape, layout)
        inputs = rows if layout.startswith("transposed") else columns
        self._left, self._right = _sketches(inputs, sketch_width(shape, layout), name)
        self._sums: list[Tensor] = []
        self._products: list[list[Tensor]] = []

    def observe(self, deltas: Sequence[Delta], merged: Delta, first: int) -> None:
        """Takes note of one slice.

        Args:
            deltas: weighted, of some rows.
            merged: M of the same rows.
            first: the first of them.
        """
        for matrices in _matrices([*deltas, merged], self._layout):
            if self._layout == "transposed":  # the slice holds some inputs, and all outputs
                some = slice(first, first + matrices[0].shape[1])
                self._add(_sides(matrices, self._left[some], self._right[some]))
            elif "stack" in self._layout:
                self._products.append(_products(_sides(matrices, self._left, self._right)))
            else:
                self._add(_products(_sides(matrices, self._left, self._right)))

    def terms(self, weights: Sequence[float]) -> list[ScaleTerm]:
        """The experts' terms in every matrix of the tensor, once all slices have been observed.

        Args:
            weights: what each delta was multiplied by.
        """
        if self._layout == "transposed":
            self._products, self._sums = [_products(self._sums)], []
        elif self._sums:
            self._products, self._sums = [self._sums], []
        found = []
        for products in self._products:
            for own, shared, weight in zip(products[::2], products[1::2], weights, strict=True):
                found.append(_weighted(_dot(own, own), _dot(own, shared), _dot(shared, shared), weight))
        return found

    def _add(self, parts: list[Tensor]) -> None:
        if not self._sums:
            self._sums = parts
        for total, part in zip(self._sums, parts, strict=True):
            if total is not part:
                total += part


def sketch_width(shape: tuple[int, ...], layout: Layout) -> int:
    """Width of P and Q for a tensor's matrices; the number of their inputs where nothing is estimated."""
    if layout == "vector":
        return 1
    rows, columns = _sides_of(shape, layout)
    inputs = rows if layout.startswith("transposed") else columns
    return min(inputs, max(SKETCH, EXACT_ENTRIES // (rows * columns)))


def _sides_of(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """Rows and columns, as stored, of the matrices that a tensor holds."""
    return (shape[-2], shape[-1]) if "stack" in layout else (shape[0], math.prod(shape[1:]))


def _sketches(inputs: int, width: int, name: str) -> tuple[Tensor, Tensor]:
    """P and Q, (inputs, width): random signs over √width, seeded by the name; or the identity twice."""
    if width == inputs:
        return torch.eye(inputs), torch.eye(inputs)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    signs = np.random.Generator(np.random.Philox(seed)).integers(0, 2, (2, inputs, width), dtype=np.int8)
    left, right = torch.from_numpy(signs).float().mul_(2).sub_(1).div_(math.sqrt(width))
    return left, right


def _sides(matrices: Sequence[Delta], left: Tensor, right: Tensor) -> list[Tensor]:
    """τᵢP and τᵢQ of every expert, and MQ, in float64; M is the last of the matrices."""
    *deltas, merged = matrices
    found = [_times(delta, side) for delta in deltas for side in (left, right)]
    return [*found, _times(merged, right)]


def _products(sides: Sequence[Tensor]) -> list[Tensor]:
    """(τᵢP)ᵀτᵢQ and (τᵢP)ᵀMQ of every expert."""
    *pairs, merged = sides
    found = []
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        found += [left.T @ right, left.T @ merged]
    return found


def _times(delta: Delta, side: Tensor) -> Tensor:
    there = side.to(delta.parts[0])
    found = delta.up @ (delta.down @ there) if isinstance(delta, LowRank) else delta.values @ there
    return found.double()
