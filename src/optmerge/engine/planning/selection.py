"""Which tensor is merged how: a tensor's role meets `select` and `rules` of the recipe."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from optmerge.architectures import Role
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.plan import MERGEABLE, Action, Cause, MethodUse, Reason, TensorPlan
from optmerge.engine.planning.ends import end_targets, tied_pairs, two_changes
from optmerge.engine.planning.inputs import AdapterExpert, Base, Inputs
from optmerge.engine.planning.stacks import check_stacks, stack_place
from optmerge.errors import RecipeError
from optmerge.methods import Layout
from optmerge.recipe import BASE, Match, Recipe

FACTORED = ("matrix", "transposed", "flatten")
"""Layouts of tensors that can be two factors."""

EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
"""Names of one expert's tensors: classes of transformers 5 hold stacks, in which PEFT can't find them."""

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Choice:
    """What happens to a tensor, as far as it is decided.

    Args:
        action: what is done.
        reason: why.
        method_index: index of the method among the plan's; None where the tensor isn't merged.
        source: `base`, an expert's name, or the tensor that an alias is tied to.
    """

    action: Action
    reason: Reason
    method_index: int | None = None
    source: str = BASE

    def copied(self, cause: Cause, about: str = "") -> Choice:
        """A copy from the base instead of a merge, for a cause of the tensor's own."""
        return Choice(Action.COPY, Reason(cause, self.reason.rule, about))


def plan_tensors(recipe: Recipe, inputs: Inputs, uses: Sequence[MethodUse | None]) -> tuple[TensorPlan, ...]:
    """What happens to every tensor of the base, in the order in which the base's files hold them.

    Args:
        recipe: what was asked for.
        inputs: the opened base and experts.
        uses: the recipe's method, then one per rule.

    Raises:
        RecipeError: nothing would be merged, a tensor can't be, or an adapter can't hold the merge.
    """
    stored = inputs.base.checkpoint.tensors.values()
    order = sorted(stored, key=lambda info: (str(info.file), info.begin, info.name))
    depths = _depths([info.name for info in order])
    tensors = tuple(_plan_tensor(info, recipe, inputs, uses, depths.get(info.name)) for info in order)
    _check_something_merged(recipe, tensors, inputs)
    _check_adapter_output(recipe, tensors, inputs)
    _check_ends(tensors, inputs)
    return tensors


def _plan_tensor(
    info: TensorInfo,
    recipe: Recipe,
    inputs: Inputs,
    uses: Sequence[MethodUse | None],
    depth: float | None,
) -> TensorPlan:
    base = inputs.base
    role = base.architecture.role(info.name, info.shape)
    choice = _choose(recipe, base, info.name, role)
    use = uses[choice.method_index] if choice.method_index is not None else None
    if use is not None and not any(expert.changes(info.name) for expert in inputs.experts):
        choice = choice.copied(Cause.UNCHANGED)
    elif use is not None and use.scale == 0:
        choice = choice.copied(Cause.SCALE_0)
    out_dtype = info.dtype
    if recipe.dtype != "auto" and info.dtype.startswith(("F", "BF")):
        out_dtype = _DTYPES[recipe.dtype]
    return TensorPlan(
        name=info.name,
        component=role.component,
        kind=role.kind,
        shape=info.shape,
        dtype=info.dtype,
        out_dtype=out_dtype,
        action=choice.action,
        reason=choice.reason,
        method_index=choice.method_index,
        source=choice.source,
        layout=layout_of(role, info.shape),
        depth=depth,
    )


_LAYER = re.compile(r"^(.*?)\.(\d{1,6})\.")
"""A tensor's stack of layers and its layer there: the first number in its name."""


def _depths(names: Sequence[str]) -> dict[str, float]:
    """Place of each tensor's layer in its stack, from 0 to 1; what isn't in a layer has none."""
    found = {name: _LAYER.match(name) for name in names}
    layers = {name: (match[1], int(match[2])) for name, match in found.items() if match}
    last: dict[str, int] = {}
    for stack, layer in layers.values():
        last[stack] = max(layer, last.get(stack, 0))
    return {name: layer / max(1, last[stack]) for name, (stack, layer) in layers.items()}


def _choose(recipe: Recipe, base: Base, name: str, role: Role) -> Choice:
    """What a tie, the first rule that matches, or else `select` says of a tensor."""
    if name in base.aliases:
        source = base.aliases[name]
        return Choice(Action.ALIAS, Reason(Cause.TIED, about=source), source=source)
    has_roles = base.checkpoint.config is not None
    for index, rule in enumerate(recipe.rules):
        if not _matches(rule.match, name, role, has_roles):
            continue
        if rule.copy_from is not None:
            reason = Reason(Cause.RULE_COPIES, index, rule.copy_from)
            return Choice(Action.COPY, reason, source=rule.copy_from)
        return _merged(Choice(Action.MERGE, Reason(Cause.RULE_MERGES, index), index + 1), base.info(name))
    if not _matches(recipe.select, name, role, has_roles):
        return Choice(Action.COPY, _why_not(recipe.select, role, has_roles))
    return _merged(Choice(Action.MERGE, Reason(Cause.SELECTED), 0), base.info(name))


def _merged(choice: Choice, info: TensorInfo) -> Choice:
    """The choice to merge, where a tensor of this type and shape can be merged."""
    if 0 in info.shape:
        return choice.copied(Cause.EMPTY)
    if info.dtype in MERGEABLE:
        return choice
    if info.dtype.startswith("F"):
        exclude = f"select: {{exclude: ['^{info.name}$']}}"
        raise RecipeError(
            f"tensor {info.name} can't be merged in its type",
            where=info.file,
            got=info.dtype,
            expected=", ".join(MERGEABLE),
            hint=f"dequantise the checkpoints, or write in the recipe: {exclude}",
        )
    return choice.copied(Cause.NOT_FLOATING, info.dtype)


def _matches(match: Match, name: str, role: Role, has_roles: bool) -> bool:
    """Without roles there are no kinds either, unless the recipe names some."""
    if match.components is not None and role.component not in match.components:
        return False
    kinds_count = has_roles or "kinds" in match.model_fields_set
    if kinds_count and match.kinds is not None and role.kind not in match.kinds:
        return False
    return match.accepts_name(name)


def _why_not(match: Match, role: Role, has_roles: bool) -> Reason:
    if match.components is not None and role.component not in match.components:
        return Reason(Cause.OTHER_COMPONENT, about=role.component)
    if has_roles and match.kinds is not None and role.kind not in match.kinds:
        return Reason(Cause.OTHER_KIND, about=role.kind)
    return Reason(Cause.OTHER_NAME)


def layout_of(role: Role, shape: Sequence[int]) -> Layout:
    """How a tensor of this role holds matrices."""
    if sum(length > 1 for length in shape) < 2 or len(shape) < 2:
        return "vector"
    if len(shape) == 2:
        return "transposed" if role.transposed else "matrix"
    if len(shape) == 3 and role.kind != "conv":
        return "transposed_stack" if role.transposed else "stack"
    return "flatten"


def _check_something_merged(recipe: Recipe, tensors: tuple[TensorPlan, ...], inputs: Inputs) -> None:
    if any(tensor.action is Action.MERGE for tensor in tensors):
        return
    found = Counter(tensor.component for tensor in tensors)
    listing = ", ".join(f"{component} ({count} tensors)" for component, count in found.most_common())
    if inputs.base.checkpoint.config is None:
        hint = "the base has no config.json, so nothing has a role; write: select: {components: [other]}"
    elif any(tensor.reason.cause is Cause.SCALE_0 for tensor in tensors):
        hint = "with scale 0 the result is the base; give the method a scale: --set scale=1"
    elif any(tensor.reason.cause is Cause.UNCHANGED for tensor in tensors):
        hint = f"the experts change only: {_changed_words(tensors, inputs)}; select some of it"
    else:
        hint = f"choose among these in the recipe: select: {{components: [{', '.join(found)}]}}"
    mostly = Counter(tensor.reason.words for tensor in tensors).most_common(1)[0][0]
    raise RecipeError(
        "no tensor would be merged", where="select", got=f"{listing}; mostly: {mostly}", hint=hint
    )


def _check_ends(tensors: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses an adapter that changes the two ends of a tied base apart, where that change is used."""
    base = inputs.base
    pairs = tied_pairs(base)
    planned = {tensor.name: tensor for tensor in tensors}
    for expert in inputs.experts:
        if not pairs or not isinstance(expert, AdapterExpert):
            continue
        for ends in end_targets(expert.adapter, base.architecture, pairs):
            tensor = planned[base.by_canonical[ends.source]]
            used = tensor.action is Action.MERGE or tensor.source == expert.name
            if used and expert.changes(tensor.name) and not ends.one:
                raise two_changes(expert, ends)


def _changed_words(tensors: Sequence[TensorPlan], inputs: Inputs) -> str:
    """Components and kinds of what some expert may change."""
    changed = [each for each in tensors if any(expert.changes(each.name) for expert in inputs.experts)]
    places = dict.fromkeys((each.component, each.kind) for each in changed)
    return ", ".join(f"{component} ({kind})" for component, kind in places) or "nothing that the base stores"


def _check_adapter_output(recipe: Recipe, tensors: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses an adapter that would need full rank, or hold a tensor that is no matrix or whole module."""
    if recipe.output.format != "adapter":
        return
    if recipe.output.rank is None and not all(isinstance(each, AdapterExpert) for each in inputs.experts):
        raise RecipeError(
            "an adapter of exact rank can only be made of adapters",
            where="output",
            got="full checkpoints among the experts, whose deltas have full rank",
            hint="give the rank to truncate to: output: {format: adapter, rank: 64}; the error is reported",
        )
    replaceable = _replaceable_modules(tensors)
    for tensor in tensors:
        if tensor.action is Action.MERGE:
            single = EXPERT.search(inputs.base.architecture.canonical(tensor.name)) is not None
            factored = tensor.layout in FACTORED and not single
            stacked = stack_place(tensor.name, inputs) is not None
            fits = factored or stacked or _module(tensor) in replaceable
        else:
            fits = tensor.action is Action.ALIAS or tensor.source == BASE
        if not fits and EXPERT.search(inputs.base.architecture.canonical(tensor.name)):
            raise RecipeError(
                "an adapter can't hold the change of single experts",
                where="output",
                got=tensor.name,
                expected="changes of whole stacks, as adapters by target_parameters make them",
                hint="write output: dense; or leave experts out with select: {exclude: ['experts']}",
            )
        if not fits:
            raise RecipeError(
                f"an adapter can't hold {tensor.name}",
                where="output",
                got=f"{tensor.reason.words}, shape {list(tensor.shape)}, layout {tensor.layout}",
                expected="merged matrices, or merged whole modules without one",
                hint="leave it out with select: {exclude: […]}, or write output: dense",
            )
    check_stacks([tensor for tensor in tensors if tensor.action is Action.MERGE], inputs)


def _replaceable_modules(tensors: Sequence[TensorPlan]) -> frozenset[str]:
    """Modules that are merged vectors throughout, which `modules_to_save` can replace."""
    modules: dict[str, list[bool]] = defaultdict(list)
    for tensor in tensors:
        modules[_module(tensor)].append(tensor.action is Action.MERGE and tensor.layout == "vector")
    return frozenset(module for module, vectors in modules.items() if all(vectors))


def _module(tensor: TensorPlan) -> str:
    return tensor.name.rpartition(".")[0]
