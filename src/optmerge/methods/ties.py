"""TIES: trim, elect a sign, average what agrees."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense
from optmerge.errors import MethodError
from optmerge.methods._context import Context
from optmerge.methods._fast.elementwise import CompiledTies, TrimThresholds
from optmerge.methods._fast.kernels import compiled_for
from optmerge.methods._fast.radix import MagnitudeSelection, magnitude_threshold
from optmerge.methods._fast.stored import StoredDeltas
from optmerge.methods._method import Parameters, Resources, Streaming
from optmerge.methods._parameters import Fraction
from optmerge.methods._registry import method

Trim = Literal["tensor", "model"]


class TrimSurvey:
    """Thresholds over one tensor or over all together: two passes select them, one counts signs."""

    def __init__(self, experts: int, keep: float) -> None:
        self._selections = [MagnitudeSelection(keep) for _ in range(experts)]
        self._lock = threading.Lock()  # slices are observed by several threads
        self._sign_sum = 0.0
        self._signs_counted = False
        self._counting_signs = False

    def begin_pass(self) -> bool:
        """True when one more pass over all tensors is needed."""
        needed = [selection.begin_pass() for selection in self._selections]
        self._counting_signs = not any(needed)
        return not (self._counting_signs and self._signs_counted)

    def observe(self, deltas: Sequence[Delta], context: Context) -> None:
        """Takes note of one tensor, or one slice of it."""
        if self._counting_signs:
            signs = _trimmed_sum_of_signs(deltas, self._thresholds())
            with self._lock:
                self._sign_sum += signs
            return
        for selection, delta in zip(self._selections, deltas, strict=True):
            selection.observe(delta.dense())

    def end_pass(self) -> None:
        """Called after the last tensor of a pass."""
        if self._counting_signs:
            self._signs_counted = True
            return
        for selection in self._selections:
            selection.end_pass()

    def result(self) -> TrimThresholds:
        """Thresholds and majority sign of the whole model."""
        return TrimThresholds(self._thresholds(), _sign(self._sign_sum))

    def _thresholds(self) -> tuple[float, ...]:
        return tuple(selection.threshold for selection in self._selections)


def ties_scale(parameters: Parameters) -> float:
    """0.3 for thresholds per tensor, 1.0 for one threshold per model."""
    return 1.0 if parameters["trim"] == "model" else 0.3


def _streaming(parameters: Parameters) -> Streaming:
    keep = parameters["keep"]
    return Streaming(
        survey=lambda experts: TrimSurvey(experts, keep),
        scope=parameters["trim"],
        passes=trim_passes(keep),
        compiled=CompiledTies(keep),
    )


def trim_passes(keep: float) -> int:
    """Two passes select a float32 threshold unless all is kept, one counts signs."""
    return 1 if keep == 1 else 3


@method(
    granularity="tensor",
    scale=ties_scale,
    auto="ties",
    resources=Resources(
        work=lambda case: 12.0 * case.m * case.n * case.experts,
        workspace=lambda case: case.experts + 6.0,
    ),
    streaming=_streaming,
)
def ties(
    deltas: Sequence[Delta],
    *,
    keep: Fraction = 0.2,
    trim: Trim = "tensor",
    context: Context | None = None,
) -> Delta:
    """Trim, elect a sign, average what agrees.

    τ̂ᵢ = τᵢ·[|τᵢ| ≥ θᵢ],  γ = sign Σ τ̂ᵢ,  M = mean{τ̂ᵢ : sign τ̂ᵢ = γ, τ̂ᵢ ≠ 0}, 0 where no expert agrees

    θᵢ is the k-th smallest magnitude, k = ⌊(1 − keep)·size⌋; where the sum is exactly 0, γ is the majority
    sign of the whole tensor (or model).

    Args:
        deltas: expert − base; not modified.
        keep: fraction of each delta kept by magnitude, in (0, 1].
        trim: `tensor` for a threshold per tensor, `model` for one per expert over all merged tensors.
        context: holds the thresholds when trim is `model`.

    Source: Yadav et al. 2023, arXiv:2306.01708, Algorithm 1.
    """
    thresholds = context.survey if context else None
    if not isinstance(thresholds, TrimThresholds):
        if trim == "model":
            raise MethodError("a model-wise trim needs its survey", hint="call it through merge_deltas")
        thresholds = TrimThresholds(tuple(magnitude_threshold(delta.dense(), keep) for delta in deltas), None)
    compiled = all(compiled_for(part) for delta in deltas for part in delta.parts)
    if compiled and thresholds.majority is not None:
        merged = torch.empty(deltas[0].shape)
        out = merged.view(-1).numpy()
        _stored(deltas).mean_of_agreeing(thresholds.magnitudes, thresholds.majority, 1.0, out)
        return Dense(merged)
    return Dense(agree(_trim(deltas, thresholds.magnitudes), thresholds.majority))


def _stored(deltas: Sequence[Delta]) -> StoredDeltas:
    """Dense float32 deltas in the form the compiled loops take."""
    rows = torch.stack([delta.dense().reshape(-1) for delta in deltas]).numpy()
    return StoredDeltas(rows, False, np.ones(len(deltas), np.float32))


def agree(trimmed: Sequence[Tensor], majority: float | None = None) -> Tensor:
    """Mean, per entry, of the trimmed deltas that have the elected sign.

    Args:
        trimmed: N tensors of one shape.
        majority: sign elected where the sum is 0; None takes the majority of this tensor's own signs.
    """
    elected = torch.sign(sum_in_order(trimmed))
    elected[elected == 0] = _sign(_sum_of_signs(elected)) if majority is None else majority
    total = torch.zeros_like(elected)
    count = torch.zeros_like(elected)
    for delta in trimmed:
        agrees = (delta * elected) > 0
        total += delta * agrees
        count += agrees
    return total / count.clamp_(min=1)


def sum_in_order(tensors: Sequence[Tensor]) -> Tensor:
    """Σ in the order given, without stacking."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def _trim(deltas: Sequence[Delta], magnitudes: Sequence[float]) -> list[Tensor]:
    values = [delta.dense() for delta in deltas]
    return [value * (value.abs() >= least) for value, least in zip(values, magnitudes, strict=True)]


def _trimmed_sum_of_signs(deltas: Sequence[Delta], magnitudes: Sequence[float]) -> float:
    """How many entries of Σ τ̂ᵢ are positive, less how many are negative."""
    if not all(compiled_for(part) for delta in deltas for part in delta.parts):
        return _sum_of_signs(sum_in_order(_trim(deltas, magnitudes)))
    return float(_stored(deltas).sum_of_signs(magnitudes))


def _sum_of_signs(values: Tensor) -> float:
    """Exact for any size, so that slices and threads can't matter."""
    return float(torch.sign(values).sum(dtype=torch.float64))


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))
