"""How far the experts moved from their base, by component: figures, warnings, and the option that keeps more.

‖τ‖/‖W₀‖ is taken over the tensors that an expert holds: all of them for a full checkpoint, its targets for an
adapter. Planning knows it from a sample of each tensor, a merge that has run from every entry.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optmerge.architectures import COMPONENTS, KINDS
from optmerge.engine.plan import MERGEABLE, Action, Cause, Change, Plan, Squared, Squares, TensorPlan

_DIGITS = 4
_FIELDS = frozenset(Change.__dataclass_fields__)
_IS_BASE, _LEFT_OUT = "the result is the base", ": left out; keep it with "
_THE = {
    "language": "the language model",
    "vision": "the vision tower",
    "audio": "the audio tower",
    "video": "the video tower",
    "projector": "the projector",
}


def sums_of_squares(base: Tensor, own: Tensor) -> tuple[float | None, float]:
    """Σ(W − W₀)² and ΣW₀² of some entries, in float64.

    Entries that are equal count as unchanged, infinities included. The first sum is None where it isn't
    finite, and the second leaves out what isn't.

    Args:
        base: any type, flat.
        own: any type, of the same length.
    """
    if base.is_complex() and own.is_complex():
        base, own = torch.view_as_real(base).flatten(), torch.view_as_real(own).flatten()
    if base.dtype == own.dtype and torch.equal(base.view(torch.uint8), own.view(torch.uint8)):
        return 0.0, _finite_squares(base.double())
    before, after = base.double(), own.double()
    change = float(torch.where(before == after, 0.0, after - before).square().sum())
    return (change if math.isfinite(change) else None), _finite_squares(before)


def _finite_squares(values: Tensor) -> float:
    return float(values[torch.isfinite(values)].square().sum())


def with_squares(plan: Plan, squares: Squared) -> Plan:
    """The plan with these figures, and the warnings that follow from them in place of the earlier ones."""
    earlier = set(change_warnings(plan))
    others = tuple(warning for warning in plan.warnings if warning not in earlier)
    measured = replace(plan, squares=squares, changes=_changes(plan, squares))
    return replace(measured, warnings=(*change_warnings(measured), *others))


def _changes(plan: Plan, squares: Squared) -> tuple[Change, ...]:
    found = []
    for expert, own in squares.items():
        groups: dict[tuple[str, bool], list[TensorPlan]] = defaultdict(list)
        for tensor in plan.tensors:
            if tensor.name in own:
                groups[tensor.component, is_kept(tensor, expert)].append(tensor)
        places = sorted(groups, key=lambda place: (_component_rank(place[0]), not place[1]))
        found += [_change(expert, *place, groups[place], own) for place in places]
    return tuple(found)


def is_kept(tensor: TensorPlan, expert: str) -> bool:
    """Whether an expert's own value of a tensor has a part in the output."""
    copied = tensor.action is Action.COPY and tensor.source == expert
    return copied or tensor.action is Action.MERGE


def is_read_whole(tensor: TensorPlan, expert: str, sampled: Squares) -> bool:
    """Whether a run reads every entry of an expert's tensor, to know how far the expert moved it.

    Training moves nearly every entry of a tensor that it moves; but in tables and stacked experts it may move
    a few rows. So a tensor is skipped only where the output has nothing of it, it is none of those, and no
    entry of the sample differs.
    """
    sparse = tensor.kind in ("embedding", "head") or len(tensor.shape) > 2
    return is_kept(tensor, expert) or sparse or sampled.change != 0


def _change(
    expert: str, component: str, kept: bool, tensors: Sequence[TensorPlan], own: Mapping[str, Squares]
) -> Change:
    changed = [tensor for tensor in tensors if own[tensor.name].change != 0]
    kinds = {tensor.kind for tensor in changed or tensors}
    each = [own[tensor.name] for tensor in tensors if tensor.kind in kinds]
    return Change(
        expert=expert,
        component=component,
        kept=kept,
        kinds=tuple(sorted(kinds, key=lambda kind: _rank(KINDS, kind))),
        tensors=len(tensors),
        changed=len(changed),
        moved=_ratio(each),
        exact=all(own[tensor.name].exact for tensor in tensors),
    )


def _ratio(each: Sequence[Squares]) -> float | None:
    known = [one.change for one in each if one.change is not None]
    change, base = math.fsum(known), math.fsum(one.base for one in each)
    if len(known) < len(each):
        return None
    if not change:
        return 0.0
    return float(f"{math.sqrt(change / base):.{_DIGITS}g}") if base else None


def change_warnings(plan: Plan) -> tuple[str, ...]:
    """That the result is the base, and every change that the selection leaves out, with what keeps it."""
    if not plan.squares:
        return ()
    return (*_base_warning(plan), *_left_out_warnings(plan))


def is_change_warning(text: str) -> bool:
    """Whether a warning is one of `change_warnings`, such as a finished merge's provenance holds."""
    return _LEFT_OUT in text or text.startswith(_IS_BASE)


def _base_warning(plan: Plan) -> list[str]:
    """Says it of a merge in which no expert changes anything."""
    weights = dict(zip(plan.expert_names, (spec.weight for spec in plan.recipe.experts), strict=True))
    mattering = [
        own[tensor.name]
        for expert, own in plan.squares.items()
        for tensor in plan.tensors
        if tensor.name in own and is_kept(tensor, expert) and (weights[expert] or tensor.source == expert)
    ]
    if any(one.change != 0 for one in mattering):
        return []
    if all(one.exact for one in mattering):
        return [f"{_IS_BASE}: no expert changes anything that is merged"]
    return [
        "the result seems to be the base: a sample of each tensor shows no expert changing anything "
        "that is merged"
    ]


def _left_out_warnings(plan: Plan) -> list[str]:
    """One for each component that experts changed beyond the selection; rules are the user's own word."""
    found: dict[str, dict[str, list[TensorPlan]]] = defaultdict(lambda: defaultdict(list))
    for expert, own in plan.squares.items():
        for tensor in plan.tensors:
            moved = tensor.name in own and own[tensor.name].change != 0
            if moved and not is_kept(tensor, expert) and tensor.reason.rule is None:
                found[tensor.component][expert].append(tensor)
    return [_left_out_words(plan, part, found[part]) for part in sorted(found, key=_component_rank)]


def _left_out_words(plan: Plan, component: str, experts: Mapping[str, Sequence[TensorPlan]]) -> str:
    changes = [each for each in plan.changes if each.component == component and not each.kept]
    shares = [
        f"by {percent(each)}" if index == 0 else f"{each.expert} by {percent(each)}"
        for index, each in enumerate(each for each in changes if each.expert in experts)
    ]
    tensors = [tensor for own in experts.values() for tensor in own]
    kinds = sorted({tensor.kind for tensor in tensors}, key=lambda kind: _rank(KINDS, kind))
    return (
        f"{next(iter(experts))} changed {_THE.get(component, f'component {component!r}')} "
        f"({', '.join(kinds)}) {', '.join(shares)}{_LEFT_OUT}"
        + " and ".join(_options(plan, tensors, next(iter(experts))))
    )


def _options(plan: Plan, tensors: Sequence[TensorPlan], expert: str) -> list[str]:
    """What keeps these tensors: settings for what can be merged, a rule for what isn't floating-point."""
    mergeable = [tensor for tensor in tensors if tensor.dtype in MERGEABLE]
    options = [option_that_keeps(plan, mergeable)] if mergeable else []
    fixed = next((tensor for tensor in tensors if tensor.dtype not in MERGEABLE), None)
    if fixed is not None:
        match = f"{{match: {{include: ['^{re.escape(fixed.name)}$']}}, copy_from: {expert}}}"
        options.append(f"a rule for what can't be merged: {match}")
    return options


def option_that_keeps(plan: Plan, tensors: Sequence[TensorPlan]) -> str:
    """What to add to the command so that the selection has these tensors, too.

    Args:
        plan: its recipe doesn't select them.
        tensors: floating-point, at least one.
    """
    select = plan.recipe.select
    has_kinds = plan.architecture != "bare" or "kinds" in select.model_fields_set
    settings = []
    for key, chosen, order, own in (
        ("components", select.components, COMPONENTS, {tensor.component for tensor in tensors}),
        ("kinds", select.kinds if has_kinds else None, KINDS, {tensor.kind for tensor in tensors}),
    ):
        if chosen is not None and not own <= set(chosen):
            listed = sorted({*chosen, *own}, key=lambda name, order=order: _rank(order, name))  # type: ignore[misc]
            settings.append(f"select.{key}=[{','.join(listed)}]")
    names = [tensor.name for tensor in tensors]
    for key, patterns in (("include", select.include), ("exclude", select.exclude)):
        alone = select.model_copy(update={"include": [], "exclude": [], key: patterns})
        if not all(alone.accepts_name(name) for name in names):
            settings.append(f"select.{key}=[]")
    if any(tensor.reason.cause is Cause.SCALE_0 for tensor in tensors):
        settings.append("scale=1")
    return " ".join(f"--set {setting}" for setting in settings)


def percent(change: Change) -> str:
    """‖τ‖/‖W₀‖ for people, as in `3.1 %`, with what it was measured on where that isn't every entry."""
    if change.moved is None and not change.exact:
        return "an amount that a sample can't tell"
    if change.moved is None:
        return "an amount without a figure (the base's values are 0, or something isn't finite)"
    share = 100 * change.moved
    words = (
        f"{share:,.0f} %" if share >= 100 else f"{share:.3g} %" if share >= 1e-3 or not share else "<0.001 %"
    )
    return words if change.exact else f"about {words} (sampled)"


def change_lines(changes: Iterable[Change]) -> list[str]:
    """One line for each expert, as in `e0: language 3.1 %; left out: projector 49.9 % (matrix)`."""
    lines = []
    by_expert: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_expert[change.expert].append(change)
    for expert, own in by_expert.items():
        kept = [f"{each.component} {percent(each)}" for each in own if each.kept]
        lost = [
            f"{each.component} {percent(each)} ({', '.join(each.kinds)})"
            for each in own
            if not each.kept and each.changed
        ]
        words = ", ".join(kept) or "nothing"
        lines.append(f"{expert}: {words}" + (f"; left out: {', '.join(lost)}" if lost else ""))
    return lines


def changes_from(data: Any) -> tuple[Change, ...]:
    """Changes as `optmerge.json` holds them; none where they aren't what this program writes."""
    if not isinstance(data, list):
        return ()
    found = []
    for each in data:
        if not isinstance(each, dict) or set(each) != _FIELDS or not isinstance(each["kinds"], list):
            return ()
        change = Change(**{**each, "kinds": tuple(map(str, each["kinds"]))})
        if not _is_sound(change):
            return ()
        found.append(change)
    return tuple(found)


def _is_sound(change: Change) -> bool:
    counts = (change.tensors, change.changed)
    moved = change.moved is None or (type(change.moved) in (int, float) and math.isfinite(change.moved))
    return (
        moved
        and isinstance(change.expert, str)
        and isinstance(change.component, str)
        and all(type(count) is int for count in counts)
        and all(type(flag) is bool for flag in (change.kept, change.exact))
    )


def _rank(order: Sequence[str], name: str) -> tuple[int, str]:
    """Place in a fixed order; names that it hasn't come last, by the alphabet."""
    return (order.index(name) if name in order else len(order)), name


def _component_rank(component: str) -> tuple[int, str]:
    return _rank(COMPONENTS, component)
