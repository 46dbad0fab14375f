"""The merge of one tensor, or of some of its rows: deltas in, merged weights or a merged delta out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Protocol

from torch import Tensor

from optmerge.deltas import Delta, LowRank
from optmerge.engine.plan import MethodUse, Plan, TensorPlan
from optmerge.engine.planning.cost import slice_limit
from optmerge.engine.planning.inputs import FullExpert
from optmerge.engine.running.pool import Each, Pool
from optmerge.engine.running.sources import Rows, Sources
from optmerge.methods import Context, Survey, apply
from optmerge.methods._context import SurveyScope

Surveys = Mapping[int, Any]
"""What each group's survey found, by group."""


class ScaleOf(Protocol):
    """The scale of a merged tensor, given or chosen: `Scales.of`."""

    def __call__(
        self, tensor: TensorPlan, use: MethodUse, deltas: Sequence[Delta], merged: Delta, /
    ) -> float:
        """From the weighted deltas and M."""


def merged_weights(
    plan: Plan, tensor: TensorPlan, sources: Sources, surveys: Surveys, scale_of: ScaleOf, rows: Rows = None
) -> Tensor:
    """W₀ + s·M for a tensor or some of its rows; float32 or float64, on the sources' device."""
    use = plan.use(tensor)
    method = use.method
    if method.merges_weights and all(isinstance(expert, FullExpert) for expert in sources.inputs.experts):
        weights = method.weighted(sources.weights(tensor, rows), use.weights)
        return apply(method, weights, use.parameters, context_of(plan, tensor, surveys, rows)).dense()
    base = sources.base(tensor, rows)
    deltas = method.weighted(sources.deltas(tensor, base, rows), use.weights)
    merged = apply(method, deltas, use.parameters, context_of(plan, tensor, surveys, rows))
    scale = scale_of(tensor, use, deltas, merged)
    if isinstance(merged, LowRank):
        return add_factors(base, merged, scale)
    # Rounded after each step, as W₀ + s·M is usually written; a fused multiply-add moves last digits.
    return base.add_(merged.values.to(base.dtype).mul_(scale))


def merged_delta(
    plan: Plan, tensor: TensorPlan, sources: Sources, surveys: Surveys, scale_of: ScaleOf
) -> Delta:
    """s·M for a whole tensor; factors where the method keeps them."""
    found = merged_low_rank(plan, tensor, sources, surveys, scale_of)
    if found is None:
        deltas = sources.deltas(tensor, sources.base(tensor))
        found = _merged(plan, tensor, deltas, surveys, scale_of)
    merged, scale = found
    return merged.scaled(scale)


def merged_low_rank(
    plan: Plan, tensor: TensorPlan, sources: Sources, surveys: Surveys, scale_of: ScaleOf
) -> tuple[Delta, float] | None:
    """M and s for a whole tensor where every delta is factors; the base isn't read. None elsewhere."""
    deltas = sources.low_rank_deltas(tensor)
    return None if deltas is None else _merged(plan, tensor, deltas, surveys, scale_of)


def add_factors(base: Tensor, merged: LowRank, scale: float) -> Tensor:
    """W₀ + s·(up·down), in the base's memory."""
    flat = base.view(base.shape[0], -1)
    flat.addmm_(merged.up.to(base.dtype), merged.down.to(base.dtype), alpha=scale)
    return base


def _merged(
    plan: Plan, tensor: TensorPlan, deltas: Sequence[Delta], surveys: Surveys, scale_of: ScaleOf
) -> tuple[Delta, float]:
    """M and s for a whole tensor."""
    use = plan.use(tensor)
    method = use.method
    weighted = method.weighted(deltas, use.weights)
    merged = apply(method, weighted, use.parameters, context_of(plan, tensor, surveys, None))
    return merged, scale_of(tensor, use, weighted, merged)


def context_of(plan: Plan, tensor: TensorPlan, surveys: Surveys, rows: Rows) -> Context:
    """What a method may know beside the deltas of a tensor, or of some of its rows."""
    return Context(
        tensor=tensor.name,
        experts=plan.expert_names,
        start=rows[0] * prod(tensor.shape[1:]) if rows else 0,
        layout=tensor.layout,
        survey=surveys.get(tensor.method_index) if tensor.method_index is not None else None,
    )


def survey_tensor(plan: Plan, tensor: TensorPlan, sources: Sources, each: Each, slices: list[Rows]) -> Any:
    """What a method's survey finds in one tensor; None where it needs none, or needs one of all tensors."""
    use = plan.use(tensor)
    survey = _survey_of(plan, use, "tensor")
    if survey is None:
        return None
    return _surveyed(survey, plan, lambda: ((tensor, rows) for rows in slices), sources, each)


def run_surveys(plan: Plan, sources: Sources, pool: Pool, slice_elements: int) -> dict[int, Any]:
    """Runs the survey of every group that needs to see all of its tensors first."""
    found = {}
    for group, use in enumerate(plan.methods):
        tensors = [tensor for tensor in plan.tensors if tensor.method_index == group]
        survey = _survey_of(plan, use, "model") if use is not None and tensors else None
        if survey is None:
            continue

        def places(tensors: list[TensorPlan] = tensors) -> Iterator[tuple[TensorPlan, Rows]]:
            for tensor in tensors:
                limit = slice_limit(tensor.name, sources.inputs, slice_elements)
                yield from ((tensor, rows) for rows in row_slices(tensor, limit))

        found[group] = _surveyed(survey, plan, places, sources, pool.each)
    return found


def _survey_of(plan: Plan, use: MethodUse, scope: SurveyScope) -> Survey | None:
    """A fresh survey of the method; None where it needs none of that scope."""
    streaming = use.method.streaming(use.parameters)
    if streaming is None or streaming.survey is None or streaming.scope != scope:
        return None
    return streaming.survey(len(plan.expert_names))


def _surveyed(
    survey: Survey,
    plan: Plan,
    places: Callable[[], Iterable[tuple[TensorPlan, Rows]]],
    sources: Sources,
    each: Each,
) -> Any:
    """What the survey finds in passes over slices, as many as it asks for."""

    def observe(place: tuple[TensorPlan, Rows]) -> None:
        tensor, rows = place
        use = plan.use(tensor)
        deltas = sources.deltas(tensor, sources.base(tensor, rows), rows)
        survey.observe(use.method.weighted(deltas, use.weights), context_of(plan, tensor, {}, rows))

    while survey.begin_pass():
        each(observe, places())
        survey.end_pass()
    return survey.result()


def row_slices(tensor: TensorPlan, slice_elements: int) -> Iterator[Rows]:
    """Ranges of rows of at most so many elements (one row at least); None where one slice is enough."""
    if prod(tensor.shape) <= slice_elements or not tensor.shape:
        yield None
        return
    step = max(1, slice_elements // max(1, prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], step):
        yield start, min(tensor.shape[0], start + step)
