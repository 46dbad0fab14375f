"""The door of the analysis: a recipe in, figures of its experts and of its merge out; nothing is written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import filterfalse
from statistics import median
from typing import Any

import torch
from torch import Tensor

from optmerge.analysis.findings import findings
from optmerge.analysis.matrices import EXACT_SIDE, RANKS
from optmerge.analysis.tensors import TensorSums, measure_tensor, sample_ranges
from optmerge.analysis.totals import Figures, figures, layer_of, module_of
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.deltas import Delta
from optmerge.engine.changes import with_squares
from optmerge.engine.merge import Watch, silent
from optmerge.engine.output.public_names import PublicNames, public_names
from optmerge.engine.plan import Action, Plan, Squares, TensorPlan
from optmerge.engine.planning.cost import SLICE_ELEMENTS
from optmerge.engine.planning.inputs import AdapterExpert
from optmerge.engine.planning.opening import open_inputs
from optmerge.engine.planning.planner import make_plan
from optmerge.engine.planning.request import check_recipe, parse_bytes
from optmerge.engine.running.budget import around_tensors, fit_memory
from optmerge.engine.running.compute import Surveys, context_of, run_surveys, survey_tensor
from optmerge.engine.running.measuring import ChangeMeter, by_expert
from optmerge.engine.running.pool import Pool, keep_freed_memory, one_after_another
from optmerge.engine.running.scales import Scales, choose_scales, with_scales
from optmerge.engine.running.sources import Sources
from optmerge.errors import RecipeError
from optmerge.methods import apply
from optmerge.recipe import Recipe, parse_recipe

FORMAT = 1
"""Version of the form of an analysis as JSON."""


@dataclass(frozen=True)
class Analysis:
    """What was measured.

    Args:
        plan: of the merge, with what the experts changed, measured.
        sums: of each merged tensor, in the order of the plan.
        chosen: of each method of the plan the scale that was chosen for it, as in the provenance of a merge.
        names: what the models are called where their paths aren't to be told.
    """

    plan: Plan
    sums: tuple[TensorSums, ...]
    chosen: tuple[Mapping[str, Any] | None, ...]
    names: PublicNames

    def figures(self, tensors: Iterable[TensorSums]) -> Figures:
        """Figures of some tensors together."""
        return figures(self.plan.expert_names, list(tensors))

    @cached_property
    def total(self) -> Figures:
        """Figures of everything that is merged."""
        return self.figures(self.sums)

    @cached_property
    def components(self) -> dict[str, Figures]:
        """Figures by component, in the order of the plan."""
        groups: dict[str, list[TensorSums]] = defaultdict(list)
        for each in self.sums:
            groups[each.tensor.component].append(each)
        return {component: self.figures(group) for component, group in groups.items()}

    def layers(self, most: int | None = None) -> dict[tuple[str, int, int], Figures]:
        """Figures by component, first layer and last layer: a layer each, or at most so many groups.

        Tensors outside numbered layers are left out.
        """
        found: dict[tuple[str, int, int], Figures] = {}
        for component in self.components:
            own = [each for each in self.sums if each.tensor.component == component]
            numbers = sorted({number for each in own if (number := layer_of(each.tensor.name)) is not None})
            step = 1 if most is None else math.ceil(len(numbers) / most)
            for start in range(0, len(numbers), max(1, step)):
                some = numbers[start : start + step]
                group = [each for each in own if layer_of(each.tensor.name) in some]
                found[component, some[0], some[-1]] = self.figures(group)
        return found

    @cached_property
    def lengths(self) -> dict[str, float | None]:
        """Length of each expert's change in units of the median expert's; None where nobody moved."""
        norms = {name: each.delta.norm for name, each in self.total.experts.items()}
        moved = [norm for norm in norms.values() if norm]
        return {name: norm / median(moved) if moved else None for name, norm in norms.items()}

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What stands out, in sentences."""
        layers = {f"{part} layer {first}": each for (part, first, _), each in self.layers().items()}
        return findings(self.total, layers, self.lengths, self.plan)

    def plain(self) -> dict[str, Any]:
        """JSON-ready data, without a path of this machine, since it may lie in a folder that is published."""
        decided = self.names.without_paths(self.plan.plain())
        return {
            "format": FORMAT,
            "optmerge": version("optmerge"),
            **{
                key: decided[key] for key in ("fingerprint", "architecture", "methods", "changes", "warnings")
            },
            "scales": list(self.chosen),
            "ranks": list(RANKS),
            "experts": list(self.plan.expert_names),
            "lengths": self.lengths,
            "findings": list(self.findings),
            "total": asdict(self.total),
            "components": {name: asdict(each) for name, each in self.components.items()},
            "layers": [
                {"component": component, "layer": layer, **asdict(each)}
                for (component, layer, _), each in self.layers().items()
            ],
            "tensors": [self._tensor(each) for each in self.sums],
        }

    def _tensor(self, sums: TensorSums) -> dict[str, Any]:
        tensor = sums.tensor
        spectra = sums.matrices[0].spectra if len(sums.matrices) == 1 else ()
        names = (*self.plan.expert_names, "merged")
        return {
            "name": tensor.name,
            "component": tensor.component,
            "kind": tensor.kind,
            "layer": layer_of(tensor.name),
            "module": module_of(tensor.name),
            "shape": list(tensor.shape),
            "singular_values": {
                name: each.values[: RANKS[-1]].tolist() for name, each in zip(names, spectra, strict=False)
            },
            **asdict(self.figures([sums])),
        }


def analyze(
    recipe: Recipe | Mapping[str, Any], *, memory: str | int | None = None, watch: Watch = silent
) -> Analysis:
    """Measures what a recipe's experts changed, and what its merge does to each of them.

    Every tensor is read as the merge reads it, merged in memory and measured; nothing is written.

    Args:
        recipe: a `Recipe`, or plain data in its form.
        memory: budget of the whole process, as for a merge: bytes, or as in `2GiB`.
        watch: shows the plan and the progress.

    Raises:
        InputError: the recipe or a model can't be used, or the budget can't be kept.
    """
    recipe = parse_recipe(recipe)
    check_recipe(recipe)
    inputs = open_inputs(recipe)
    plan = make_plan(recipe, inputs)
    merged = [tensor for tensor in plan.tensors if tensor.action is Action.MERGE]
    workers = _workers(plan, merged, memory)
    keep_freed_memory()
    with watch(plan) as progress, Sources(inputs) as sources, Pool() as pool:
        surveys = run_surveys(plan, sources, pool, SLICE_ELEMENTS)
        scales = choose_scales(plan, sources, surveys, workers, {})
        look = _Look(with_scales(plan, scales), sources, surveys, scales)
        found: dict[str, TensorSums] = {}
        measured: dict[str, dict[str, Squares]] = {}

        def visit(tensor: TensorPlan) -> None:
            measured[tensor.name] = look.squares(tensor)
            if tensor.action is Action.MERGE:
                found[tensor.name] = look.sums(tensor, measured[tensor.name])
            if progress is not None and tensor.action is not Action.ALIAS:
                progress(tensor, math.prod(tensor.shape) * DTYPES[tensor.out_dtype].itemsize)

        def wants_all_cores(tensor: TensorPlan) -> bool:
            return tensor.action is Action.MERGE and not plan.use(tensor).method.resources.one_core

        with Pool(workers) as whole:
            whole.each(visit, filterfalse(wants_all_cores, plan.tensors))
        for tensor in filter(wants_all_cores, plan.tensors):
            visit(tensor)
    return Analysis(
        plan=with_squares(plan, by_expert(plan, measured)),
        sums=tuple(found[tensor.name] for tensor in merged),
        chosen=tuple(scales.plain(plan)),
        names=public_names(plan, inputs),
    )


def _workers(plan: Plan, tensors: Sequence[TensorPlan], memory: str | int | None) -> int:
    """How many tensors are looked at side by side.

    Raises:
        RecipeError: the largest tensor doesn't fit the budget.
    """
    allowed = fit_memory(plan, memory).whole_tensors
    if memory is None:
        return allowed
    largest = max(tensors, key=lambda tensor: _held_bytes(plan, tensor))
    need, left = _held_bytes(plan, largest), parse_bytes(memory, "--memory") - around_tensors()
    if need > left:
        raise RecipeError(
            "the memory budget can't be kept",
            where="--memory",
            got=f"{parse_bytes(memory, '--memory') / 2**20:.1f} MiB",
            expected=f"at least {math.ceil((need + around_tensors()) / 2**20)} MiB, for {largest.name}",
            hint="raise it, or leave large tensors out: --set select.exclude=[…]",
        )
    return max(1, min(allowed, left // need))


def _held_bytes(plan: Plan, tensor: TensorPlan) -> int:
    """What looking at a tensor whose deltas are dense holds: them, the base, M, and copies in float64."""
    size, experts = math.prod(tensor.shape), len(plan.expert_names)
    exact = len(tensor.shape) < 2 or min(tensor.shape[0], size // tensor.shape[0]) <= EXACT_SIDE
    return size * (4 * (experts + 5) + (8 * (experts + 3) if exact else 0))


class _Look:
    """Looks at one tensor at a time; safe to use from many threads.

    Args:
        plan: with the scales that hold for all tensors of a method.
        sources: open inputs.
        surveys: what surveys of the whole model found.
        scales: those that are chosen.
    """

    def __init__(self, plan: Plan, sources: Sources, surveys: Surveys, scales: Scales) -> None:
        self._plan, self._sources, self._surveys, self._scales = plan, sources, surveys, scales
        self._meter = ChangeMeter(plan, sources)
        adapters = all(isinstance(each, AdapterExpert) for each in sources.inputs.experts)
        self._without_base = adapters and plan.recipe.output.format == "adapter"

    def squares(self, tensor: TensorPlan) -> dict[str, Squares]:
        """How far each expert moved a tensor, as the merge measures it."""
        take = self._meter.from_factors if self._without_base else self._meter.measured
        return take(tensor, one_after_another)

    def sums(self, tensor: TensorPlan, squares: Mapping[str, Squares]) -> TensorSums:
        """A merged tensor's sums."""
        deltas, base = self._deltas(tensor)
        scaled, scale = self._merged(tensor, deltas)
        known = next((each.base for each in squares.values()), None)
        return measure_tensor(tensor, deltas, scaled.to(deltas[0].dtype), base, known, scale)

    def _deltas(self, tensor: TensorPlan) -> tuple[Sequence[Delta], Tensor]:
        """Every expert's delta, and the rows of the base at which rounding is looked at."""
        ranges = sample_ranges(tensor.shape)
        factors = self._sources.low_rank_deltas(tensor)
        if factors is not None:
            rows = [self._sources.base(tensor, each).flatten() for each in ranges]
            return factors, torch.cat(rows)
        base = self._sources.base(tensor)
        deltas = self._sources.deltas(tensor, base)
        return deltas, torch.cat(
            [base[start:stop].flatten() for start, stop in ranges]
        ) if tensor.shape else base

    def _merged(self, tensor: TensorPlan, deltas: Sequence[Delta]) -> tuple[Delta, float]:
        """s·M and s."""
        use = self._plan.use(tensor)
        method = use.method
        surveys = self._surveys
        own = survey_tensor(self._plan, tensor, self._sources, one_after_another, [None])
        if own is not None and tensor.method_index is not None:
            surveys = {**surveys, tensor.method_index: own}
        weighted = method.weighted(deltas, use.weights)
        merged = apply(method, weighted, use.parameters, context_of(self._plan, tensor, surveys, None))
        scale = self._scales.of(tensor, use, weighted, merged)
        return merged.scaled(scale), scale
