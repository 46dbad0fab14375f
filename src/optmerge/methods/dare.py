"""DARE: drop entries at random and rescale the rest, then task arithmetic or TIES."""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.deltas import Delta, Dense, linear_combination
from optmerge.methods._context import Context
from optmerge.methods._fast.elementwise import CompiledSum, CompiledTies
from optmerge.methods._fast.masks import DropKey, dropped
from optmerge.methods._method import Parameters, Resources, Streaming
from optmerge.methods._parameters import DropRate, Fraction, Seed
from optmerge.methods._registry import method
from optmerge.methods.ties import Trim, TrimSurvey, ties, ties_scale, trim_passes


class DroppedSurvey(TrimSurvey):
    """The survey of TIES, on what DARE leaves of the deltas."""

    def __init__(self, experts: int, parameters: Parameters) -> None:
        super().__init__(experts, parameters["keep"])
        self._drop, self._seed = parameters["drop"], parameters["seed"]

    def observe(self, deltas: Sequence[Delta], context: Context) -> None:
        """Takes note of one tensor, or one slice of it, after dropping."""
        super().observe(dare(deltas, self._drop, self._seed, context), context)


@method(
    granularity="element",
    scale=0.3,
    auto="sum",
    resources=Resources(
        work=lambda case: 12.0 * case.m * case.n * case.experts,
        workspace=lambda case: case.experts + 10.0,
    ),
    streaming=lambda parameters: Streaming(
        compiled=CompiledSum(drop=parameters["drop"], seed=parameters["seed"])
    ),
)
def dare_task_arithmetic(
    deltas: Sequence[Delta],
    *,
    drop: DropRate = 0.2,
    seed: Seed = 0,
    context: Context | None = None,
) -> Delta:
    """Task arithmetic on randomly dropped and rescaled task vectors.

    M = Σ τ̃ᵢ,  τ̃ᵢ = τᵢ·bᵢ/(1 − drop),  bᵢ ~ Bernoulli(1 − drop) per entry

    Args:
        deltas: expert − base; not modified.
        drop: probability of dropping an entry, in [0, 1).
        seed: with the tensor's and the expert's name it fixes the mask.
        context: names of the tensor and the experts.

    Source: Yu et al. 2023, "Language models are super Mario", arXiv:2311.03099.
    """
    return linear_combination(dare(deltas, drop, seed, context or Context()), [1.0] * len(deltas))


def _streaming(parameters: Parameters) -> Streaming:
    keep, drop, seed = parameters["keep"], parameters["drop"], parameters["seed"]
    return Streaming(
        survey=lambda experts: DroppedSurvey(experts, parameters),
        scope=parameters["trim"],
        passes=trim_passes(keep),
        compiled=CompiledTies(keep, drop, seed),
    )


@method(
    granularity="tensor",
    scale=ties_scale,
    auto="ties",
    resources=Resources(
        work=lambda case: 24.0 * case.m * case.n * case.experts,
        workspace=lambda case: 2.0 * case.experts + 8.0,
    ),
    streaming=_streaming,
)
def dare_ties(
    deltas: Sequence[Delta],
    *,
    drop: DropRate = 0.2,
    keep: Fraction = 0.2,
    trim: Trim = "tensor",
    seed: Seed = 0,
    context: Context | None = None,
) -> Delta:
    """TIES on randomly dropped and rescaled task vectors.

    Args:
        deltas: expert − base; not modified.
        drop: probability of dropping an entry, in [0, 1).
        keep: fraction of each dropped delta kept by magnitude, in (0, 1].
        trim: `tensor` for a threshold per tensor, `model` for one per expert over all merged tensors.
        seed: with the tensor's and the expert's name it fixes the mask.
        context: names of the tensor and the experts.

    Source: Yu et al. 2023, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708.
    """
    context = context or Context()
    return ties(dare(deltas, drop, seed, context), keep=keep, trim=trim, context=context)


def dare(deltas: Sequence[Delta], drop: float, seed: int, context: Context) -> list[Delta]:
    """τᵢ·bᵢ/(1 − drop): entries dropped with probability `drop`, survivors rescaled; dense."""
    keys = [DropKey.of(seed, context.tensor, context.expert(index)) for index in range(len(deltas))]
    pairs = zip(deltas, keys, strict=True)
    return [Dense(dropped(delta.dense(), drop, key, context.start)) for delta, key in pairs]
