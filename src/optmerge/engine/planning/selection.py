"""Which tensor is merged how: roles, `select` and `rules` of a recipe, applied to one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optmerge.architectures import Role
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.plan import Action, Cause, Reason
from optmerge.engine.planning.inputs import Base
from optmerge.errors import RecipeError
from optmerge.methods._context import Layout
from optmerge.recipe import BASE, Match, Recipe

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""Types of tensors that can be merged."""


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


def choose(recipe: Recipe, base: Base, name: str, role: Role) -> Choice:
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
