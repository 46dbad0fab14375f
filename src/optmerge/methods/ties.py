"""TIES: trim, elect a sign, average what agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optmerge.deltas import Delta, Dense
from optmerge.errors import MethodError
from optmerge.methods.parameters import Fraction
from optmerge.methods.registry import Context, method
from optmerge.methods.selection import MagnitudeSelection, magnitude_threshold

Trim = Literal["tensor", "model"]


@dataclass(frozen=True)
class TrimThresholds:
    """What model-wise trimming knows of the whole model.

    Args:
        magnitudes: per expert, entries below it are trimmed.
        majority: sign of the majority of elected signs, for entries whose sum is zero.
    """

    magnitudes: tuple[float, ...]
    majority: float


class ModelSurvey:
    """Thresholds over all merged tensors together: two passes to select them, one for the majority sign."""

    def __init__(self, experts: int, keep: float) -> None:
        self._selections = [MagnitudeSelection(keep) for _ in range(experts)]
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
            trimmed = _trim(deltas, self._thresholds())
            self._sign_sum += _sum_of_signs(sum_in_order(trimmed))
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


def ties_scale(parameters: Mapping[str, Any]) -> float:
    """0.3 for thresholds per tensor, 1.0 for one threshold per model."""
    return 1.0 if parameters["trim"] == "model" else 0.3


def ties_survey(experts: int, parameters: Mapping[str, Any]) -> ModelSurvey | None:
    """A survey where the trim is over the whole model."""
    return ModelSurvey(experts, parameters["keep"]) if parameters["trim"] == "model" else None


def ties_passes(parameters: Mapping[str, Any]) -> int:
    """Two passes select a float32 threshold unless all is kept, one counts signs."""
    if parameters["trim"] != "model":
        return 0
    return 1 if parameters["keep"] == 1 else 3


@method(
    granularity="tensor",
    scale=ties_scale,
    survey=ties_survey,
    passes=ties_passes,
    work=lambda m, n, experts: 12.0 * m * n * experts,
    workspace=lambda experts, m=1, n=1: experts + 6.0,
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
    if trim == "model":
        thresholds = context.survey if context else None
        if not isinstance(thresholds, TrimThresholds):
            raise MethodError("a model-wise trim needs its survey", hint="call it through merge_deltas")
        return Dense(agree(_trim(deltas, thresholds.magnitudes), thresholds.majority))
    magnitudes = [magnitude_threshold(delta.dense(), keep) for delta in deltas]
    return Dense(agree(_trim(deltas, magnitudes)))


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


def _sum_of_signs(values: Tensor) -> float:
    """Exact for any size, so that slices and threads can't matter."""
    return float(torch.sign(values).sum(dtype=torch.float64))


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))
