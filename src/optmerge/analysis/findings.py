"""What stands out in an analysis, in sentences that say what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optmerge.analysis.matrices import RANKS
from optmerge.analysis.totals import Figures
from optmerge.engine.plan import Plan
from optmerge.methods._scales import FAR

ALIGNED = 0.2
"""Cosine from which two experts are said to have learnt something alike."""

OPPOSED = -0.05
"""Cosine from which two experts are said to work against each other."""

UNHEARD = 0.7
"""Interference from which an expert is said to be hardly kept."""

EVEN = 0.05
"""Difference of interference below which experts are said to be kept evenly."""

CLOSE = 2.0
"""Ratio to chance from which two experts' shared directions are named."""

MISSING = 0.5
"""Share of an expert's change from which the merge is said to lack it."""

UNEVEN = 1.5
"""Ratio of a layer's interference to the whole model's from which the layer is named."""

LOST = 0.1
"""Share of a change that is lost to bfloat16 from which that is said."""


def findings(
    total: Figures, layers: Mapping[str, Figures], lengths: Mapping[str, float | None], plan: Plan
) -> tuple[str, ...]:
    """Sentences, the most useful first.

    Args:
        total: of everything that is merged.
        layers: by name.
        lengths: of each expert, in units of the median expert's.
        plan: of the merge, measured.
    """
    return (
        *_interference(total, layers),
        *_lengths(lengths),
        *_cosines(total),
        *_ranks(total),
        *_rounding(total, plan),
        *_estimates(total),
    )


def _interference(total: Figures, layers: Mapping[str, Figures]) -> Iterator[str]:
    known = {name: each.interference for name, each in total.experts.items() if each.interference is not None}
    if not known:
        return
    best, worst = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if len(known) == 1:
        yield f"interference with {best}: {known[best]:.2f}; 0 is the expert itself, 1 the base"
    elif known[worst] - known[best] < EVEN:
        yield (
            f"the merge keeps the experts evenly (interference {known[best]:.2f} to {known[worst]:.2f}); "
            "0 is the expert itself, 1 the base"
        )
    else:
        yield (
            f"the merge keeps {best} best (interference {known[best]:.2f}) and {worst} worst "
            f"({known[worst]:.2f}); 0 is the expert itself, 1 the base"
        )
    for name, value in known.items():
        if value >= UNHEARD:
            lacking = (total.experts[name].dropped or 0.0) >= MISSING
            advice = "raise its weight" if lacking else "the others outweigh it there: lower their weights"
            yield (
                f"{name} is hardly kept: on its inputs the merge is {100 * value:.0f} % as far from it as "
                f"the base; {advice}"
            )
    uneven = [
        (each.experts[name].interference or 0.0, name, layer)
        for layer, each in layers.items()
        for name in known
        if (each.experts[name].interference or 0.0) >= UNEVEN * known[name]
    ]
    if uneven:
        value, name, layer = max(uneven)
        yield f"interference is uneven: {value:.2f} with {name} in {layer}, {known[name]:.2f} over all"


def _lengths(lengths: Mapping[str, float | None]) -> Iterator[str]:
    for name, length in lengths.items():
        if length is not None and length > FAR:
            yield f"{name} went {length:.1f} times as far as the median expert: it may need a lower weight"
        if length == 0:
            yield f"{name} changes nothing that is merged"


def _cosines(total: Figures) -> Iterator[str]:
    known = [(each.cosine, each) for each in total.pairs if each.cosine is not None]
    if not known:
        return
    highest, nearest = max(known, key=lambda each: each[0])
    lowest, farthest = min(known, key=lambda each: each[0])
    if highest >= ALIGNED:
        yield f"{nearest.first} and {nearest.second} point the same way (cosine {highest:.2f})"
    if lowest <= OPPOSED:
        yield f"{farthest.first} and {farthest.second} work against each other (cosine {lowest:.2f})"
    if highest < ALIGNED and lowest > OPPOSED:
        yield f"the experts are nearly orthogonal (cosines {lowest:.2f} to {highest:.2f})"
    shared = [
        (each.inputs_shared / each.inputs_by_chance, each)
        for each in total.pairs
        if each.inputs_shared and each.inputs_by_chance
    ]
    if shared:
        ratio, pair = max(shared, key=lambda each: each[0])
        if ratio < CLOSE:
            return
        yield (
            f"{pair.first} and {pair.second} listen most to the same inputs: their leading directions share "
            f"{100 * (pair.inputs_shared or 0):.0f} %, {ratio:.1f} times what chance gives"
        )


def _ranks(total: Figures) -> Iterator[str]:
    energies = {name: each.delta.energy for name, each in total.experts.items() if each.delta.energy}
    if not energies:
        return
    widest = min(energies, key=lambda name: energies[name][RANKS[-1]])
    least = {rank: min(each[rank] for each in energies.values()) for rank in RANKS}
    enough = next((rank for rank in RANKS if least[rank] >= 0.9), None)
    if enough is not None:
        yield f"rank {enough} holds {100 * least[enough]:.0f} % of every expert's change"
    else:
        share = 100 * least[RANKS[-1]]
        yield (
            f"the changes are spread over many directions: rank {RANKS[-1]} holds {share:.0f} % of "
            f"{widest}'s, where that is least"
        )


def _rounding(total: Figures, plan: Plan) -> Iterator[str]:
    types = {tensor.out_dtype for tensor in plan.tensors if tensor.method_index is not None}
    lost = total.merged.lost_to_bf16
    if lost is not None and lost >= LOST and types == {"BF16"}:
        yield (
            f"bfloat16 rounds away {100 * lost:.0f} % of the merge's change; to keep it, write in the "
            "recipe: dtype: float32"
        )
    for name, each in total.experts.items():
        lost = each.delta.lost_to_bf16
        if lost is not None and lost >= LOST:
            yield f"{name} stored as bfloat16 would lose {100 * lost:.0f} % of its change"


def _estimates(total: Figures) -> Iterator[str]:
    if total.estimated:
        error = max(each.interference_error for each in total.experts.values())
        yield (
            f"{total.estimated} matrices are too large for an exact decomposition: interference has a "
            f"standard error of {error:.1g} or less, singular values are off by {total.spectrum_error:.1g} "
            "of σ₁ or less"
        )
    if total.sampled < 1:
        yield f"signs and rounding were looked at in {100 * total.sampled:.2g} % of the entries"
