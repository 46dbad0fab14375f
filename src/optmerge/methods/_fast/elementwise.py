"""The compiled forms of average, task arithmetic, TIES, and DARE before any of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from optmerge.methods._context import Context
from optmerge.methods._fast.bracket import thresholds
from optmerge.methods._fast.stored import Drops, StoredDeltas, StoredTensor, drops_of


@dataclass(frozen=True)
class CompiledSum:
    """M = Σ τᵢ, or its N-th part.

    Args:
        divided: whether the sum is divided by the number of experts.
        drop: DARE's probability of dropping an entry before the sum.
        seed: of the drops.
    """

    divided: bool = False
    drop: float = 0.0
    seed: int = 0

    def prepare(self, tensor: StoredTensor, context: Context) -> Context | None:
        """The context as it is: a sum needs to know nothing of the whole tensor."""
        return context

    def merge(self, deltas: StoredDeltas, context: Context, scale: float, out: NDArray[Any]) -> bool:
        """Merges one slice; returns whether every input and output is finite."""
        experts = deltas.factors.size
        drops = _drops(self, context, experts)
        return replace(deltas, drops=drops).sum(experts if self.divided else 1.0, scale, out)


@dataclass(frozen=True)
class TrimThresholds:
    """What TIES must know of the whole tensor, or of the whole model, before it can merge a slice.

    Args:
        magnitudes: per expert, the smallest magnitude that isn't trimmed.
        majority: sign of the majority of elected signs, for entries whose sum is zero; None to be counted.
    """

    magnitudes: tuple[float, ...]
    majority: float | None


@dataclass(frozen=True)
class CompiledTies:
    """M is, per entry, the mean of the trimmed deltas that have the elected sign.

    Args:
        keep: fraction of each delta kept by magnitude, in (0, 1].
        drop: DARE's probability of dropping an entry before the trim.
        seed: of the drops.
    """

    keep: float
    drop: float = 0.0
    seed: int = 0

    def prepare(self, tensor: StoredTensor, context: Context) -> Context | None:
        """The context with `TrimThresholds`: the model's, or else this tensor's; None where not finite."""
        if isinstance(context.survey, TrimThresholds):
            return context
        drops = _drops(self, context, tensor.experts)
        magnitudes = thresholds(tensor, self.keep, drops)
        if magnitudes is None:
            return None
        lock, total = threading.Lock(), 0

        def count(deltas: StoredDeltas) -> None:
            nonlocal total
            signs = replace(deltas, drops=drops).sum_of_signs(magnitudes)
            with lock:
                total += signs

        tensor.each(count)
        return replace(context, survey=TrimThresholds(magnitudes, float((total > 0) - (total < 0))))

    def merge(self, deltas: StoredDeltas, context: Context, scale: float, out: NDArray[Any]) -> bool:
        """Merges one slice; returns whether every input and output is finite."""
        trim: TrimThresholds = context.survey
        deltas = replace(deltas, drops=_drops(self, context, deltas.factors.size))
        return deltas.mean_of_agreeing(trim.magnitudes, trim.majority or 0.0, scale, out)


def _drops(method: CompiledSum | CompiledTies, context: Context, experts: int) -> Drops:
    names = tuple(context.expert(index) for index in range(experts))
    return drops_of(method.drop, method.seed, context.tensor, names)
