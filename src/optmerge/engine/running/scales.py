"""Scales that are chosen from the deltas: a look at all tensors first, one number for each tensor or model.

Methods that merge slices get one scale for all their tensors, since a slice can't tell. Methods that merge
whole matrices get one for each tensor, when its M is at hand.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from optmerge.deltas import Delta
from optmerge.engine.plan import Action, MethodUse, Plan, TensorPlan
from optmerge.engine.planning.cost import AUTO_SLICE_ELEMENTS, slice_limit
from optmerge.engine.running.compute import Surveys, context_of, row_slices, survey_tensor
from optmerge.engine.running.fused import FusedSlices
from optmerge.engine.running.pool import Pool, one_after_another
from optmerge.engine.running.sources import Rows, Sources
from optmerge.methods import apply
from optmerge.methods._scales import (
    FACTORS,
    RULE_WORDS,
    Interaction,
    ScaleTerm,
    caution,
    least_squares,
    nearness,
    scale_of,
)
from optmerge.recipe import AUTO


@dataclass(frozen=True)
class Chosen:
    """What the deltas of all tensors of a method tell about its scale.

    Args:
        lengths: ‖τᵢ‖ of each expert over the method's tensors, weights applied.
        caution: factor on the rule's scale; 1 where the experts are even.
        scale: of all tensors; None where each has its own.
    """

    lengths: tuple[float, ...]
    caution: float = 1.0
    scale: float | None = None


@dataclass
class Scales:
    """Chosen scales: by method, and by tensor where each has its own; safe to use from many threads.

    Args:
        by_method: index of a method of the plan → what was chosen.
        by_tensor: tensor → scale, those of an interrupted run included.
    """

    by_method: Mapping[int, Chosen] = field(default_factory=dict)
    by_tensor: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, tensor: TensorPlan, use: MethodUse, deltas: Sequence[Delta], merged: Delta) -> float:
        """The scale of a merged tensor.

        Args:
            tensor: which.
            use: its method.
            deltas: weighted, of the whole tensor; asked for where the scale is chosen from them.
            merged: M.
        """
        if use.scale != AUTO:
            return use.scale * use.factor(tensor.depth)
        assert use.auto is not None and tensor.method_index is not None
        chosen = self.by_method[tensor.method_index]
        scale = scale_of(use.auto, deltas, use.weights, merged, tensor.layout)
        scale *= chosen.caution * use.strength * use.factor(tensor.depth)
        with self._lock:
            self.by_tensor[tensor.name] = scale
        return scale

    def knows(self, plan: Plan, tensor: TensorPlan) -> bool:
        """Whether nothing is left to be known of a tensor's scale."""
        chosen = tensor.action is Action.MERGE and plan.use(tensor).scale == AUTO
        return not chosen or tensor.name in self.by_tensor

    def plain(self, plan: Plan) -> list[dict[str, Any] | None]:
        """For each method of the plan what was chosen and why, as JSON-ready data; None where nothing was."""
        return [
            None if index not in self.by_method else self._plain(plan, index)
            for index in range(len(plan.methods))
        ]

    def _plain(self, plan: Plan, index: int) -> dict[str, Any]:
        chosen, use = self.by_method[index], plan.methods[index]
        assert use is not None and use.auto is not None
        found: dict[str, Any] = {"rule": use.auto, "reason": RULE_WORDS[use.auto]}
        own = [
            self.by_tensor[each.name]
            for each in plan.tensors
            if each.method_index == index and each.name in self.by_tensor
        ]
        if chosen.scale is not None:
            found["scale"] = chosen.scale
        elif own:
            found |= {"min": min(own), "median": median(own), "max": max(own)}
        lengths = dict(zip(plan.expert_names, chosen.lengths, strict=True))
        return {**found, "caution": chosen.caution, "strength": use.strength, "lengths": lengths}


def scale_words(found: Mapping[str, Any]) -> str:
    """What was chosen, for people; of one of the entries of `Scales.plain`."""
    if "scale" in found:
        number = f"{found['scale']:.3g}"
    elif "median" in found:
        number = f"{found['median']:.3g} ({found['min']:.3g} to {found['max']:.3g}, one a tensor)"
    else:
        number = "none"
    return f"{number}, auto ({found['reason']})"


def caution_words(found: Mapping[str, Any]) -> str | None:
    """What makes a scale smaller than its rule's; None where nothing does."""
    if found["caution"] == 1:
        return None
    moved = {name: length for name, length in found["lengths"].items() if length > 0}
    farthest, middle = max(moved, key=lambda name: moved[name]), median(moved.values())
    return (
        f"expert {farthest!r} went {moved[farthest] / middle:.1f} times as far as the median expert, so the "
        f"scale is {found['caution']:.2f} of what the rule says; lower that expert's weight, or give a scale"
    )


def choose_scales(
    plan: Plan, sources: Sources, surveys: Surveys, workers: int, known: Mapping[str, float]
) -> Scales:
    """Looks at every tensor whose method chooses its scale.

    Each tensor is read by one thread in slices that don't depend on the budget, so that neither threads nor
    memory change a bit of what is added up.

    Args:
        plan: of the merge.
        sources: open inputs.
        surveys: what surveys of the whole model found.
        workers: tensors that are looked at side by side.
        known: scales of tensors that an interrupted run has written.
    """
    groups = {index for index, use in enumerate(plan.methods) if use is not None and use.scale == AUTO}
    tensors = [tensor for tensor in plan.tensors if tensor.method_index in groups]
    if not tensors:
        return Scales()
    seen: dict[str, _Seen] = {}
    look = _Look(plan, sources, surveys)
    with Pool(workers, sources.device) as pool:
        pool.each(lambda tensor: seen.__setitem__(tensor.name, look.at(tensor)), tensors)
    chosen = {
        index: _chosen(plan, index, [seen[each.name] for each in tensors if each.method_index == index])
        for index in sorted(groups)
    }
    return Scales(chosen, dict(known))


@dataclass(frozen=True)
class _Seen:
    """One tensor's part.

    Args:
        squares: ‖τᵢ‖² of each expert.
        terms: of the least-squares scale, where M was looked at.
        nearness: of the scale of tensors without matrices, where M was looked at.
    """

    squares: tuple[float, ...]
    terms: tuple[ScaleTerm, ...] = ()
    nearness: tuple[ScaleTerm, ...] = ()


def _chosen(plan: Plan, index: int, seen: Sequence[_Seen]) -> Chosen:
    use = plan.methods[index]
    assert use is not None and use.auto is not None
    lengths = tuple(math.sqrt(math.fsum(each)) for each in zip(*(one.squares for one in seen), strict=True))
    if not streams(use):
        return Chosen(lengths, caution(lengths) if use.auto == "decorrelating" else 1.0)
    terms = [term for one in seen for term in one.terms]
    if terms:
        return Chosen(lengths, scale=FACTORS[use.auto] * least_squares(terms) * use.strength)
    near = least_squares([term for one in seen for term in one.nearness])
    return Chosen(lengths, scale=near * use.strength)


def streams(use: MethodUse) -> bool:
    """Whether a method merges slices."""
    return use.method.streaming(use.parameters) is not None


class _Look:
    """What one tensor's deltas, and M where its method merges slices, tell about a scale.

    Args:
        plan: of the merge.
        sources: open inputs.
        surveys: what surveys of the whole model found.
    """

    def __init__(self, plan: Plan, sources: Sources, surveys: Surveys) -> None:
        self._plan, self._sources, self._surveys = plan, sources, surveys
        self._fused = FusedSlices(plan, sources, surveys)

    def at(self, tensor: TensorPlan) -> _Seen:
        """Reads a tensor slice by slice, in order."""
        use = self._plan.use(tensor)
        if not streams(use):
            return self._lengths(tensor, use)
        slices = self._slices(tensor)
        surveys = self._survey(tensor, slices)
        interaction = None
        if tensor.layout != "vector":
            interaction = Interaction(tensor.shape, tensor.layout, tensor.name)
        squares, near = [], []
        for rows in slices:
            deltas = self._deltas(tensor, use, rows)
            merged = apply(use.method, deltas, use.parameters, context_of(self._plan, tensor, surveys, rows))
            squares.append([delta.squared_norm() for delta in deltas])
            if interaction is None:
                near += nearness(deltas, merged)
            else:
                interaction.observe(deltas, merged, rows[0] if rows else 0)
        terms = () if interaction is None else tuple(interaction.terms(use.weights))
        return _Seen(_totals(squares), terms, tuple(near))

    def _lengths(self, tensor: TensorPlan, use: MethodUse) -> _Seen:
        factors = self._sources.low_rank_deltas(tensor)
        if factors is not None:
            weighted = use.method.weighted(factors, use.weights)
            return _Seen(tuple(delta.squared_norm() for delta in weighted))
        parts = (self._deltas(tensor, use, rows) for rows in self._slices(tensor))
        return _Seen(_totals([[delta.squared_norm() for delta in deltas] for deltas in parts]))

    def _deltas(self, tensor: TensorPlan, use: MethodUse, rows: Rows) -> list[Delta]:
        deltas = self._sources.deltas(tensor, self._sources.base(tensor, rows), rows)
        return use.method.weighted(deltas, use.weights)

    def _slices(self, tensor: TensorPlan) -> list[Rows]:
        limit = slice_limit(tensor.name, self._sources.inputs, AUTO_SLICE_ELEMENTS)
        return list(row_slices(tensor, limit))

    def _survey(self, tensor: TensorPlan, slices: list[Rows]) -> Surveys:
        """The surveys, with what the method's own finds in this tensor."""
        fused = self._fused.fused(tensor)
        ready = fused and self._fused.prepared(tensor, fused, slices, one_after_another)
        if ready is not None:
            found = ready.context.survey
        else:
            found = survey_tensor(self._plan, tensor, self._sources, one_after_another, slices)
        if found is None or tensor.method_index is None:
            return self._surveys
        return {**self._surveys, tensor.method_index: found}


def _totals(squares: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(each) for each in zip(*squares, strict=True))


def with_scales(plan: Plan, scales: Scales) -> Plan:
    """The plan with the scales that hold for all tensors of a method."""

    def decided(index: int, use: MethodUse | None) -> MethodUse | None:
        chosen = scales.by_method.get(index)
        return (
            use if use is None or chosen is None or chosen.scale is None else replace(use, scale=chosen.scale)
        )

    return replace(plan, methods=tuple(decided(index, use) for index, use in enumerate(plan.methods)))
