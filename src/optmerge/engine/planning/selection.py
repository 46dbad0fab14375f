"""Which tensor is merged how: roles, `select` and `rules` of a recipe, applied to one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optmerge.architectures import Role
from optmerge.engine.planning.inputs import FLOATS, Base
from optmerge.errors import RecipeError
from optmerge.methods import Layout
from optmerge.recipe import BASE, Match, Recipe


@dataclass(frozen=True)
class Choice:
    """What the recipe wants for a tensor.

    Args:
        action: `merge`, or `copy` from `source`.
        reason: why, for people.
        group: index of the method among the plan's; None where copied.
        source: `base` or an expert's name.
    """

    action: str
    reason: str
    group: int | None = None
    source: str = BASE


def choose(recipe: Recipe, base: Base, name: str, role: Role) -> Choice:
    """The first rule that matches, else `select`, for a tensor that is not an alias."""
    info = base.info(name)
    has_roles = base.checkpoint.config is not None
    for index, rule in enumerate(recipe.rules):
        if not _matches(rule.match, name, role, has_roles):
            continue
        if rule.copy_from is not None:
            return Choice("copy", f"rule {index}: copied from {rule.copy_from}", source=rule.copy_from)
        return _merged(Choice("merge", f"rule {index}", group=index + 1), info.dtype, info.shape, name)
    if not _matches(recipe.select, name, role, has_roles):
        return Choice("copy", _why_not(recipe.select, name, role, has_roles))
    return _merged(Choice("merge", "selected", group=0), info.dtype, info.shape, name)


def _merged(choice: Choice, dtype: str, shape: tuple[int, ...], name: str) -> Choice:
    if 0 in shape:
        return Choice("copy", "empty")
    if dtype in FLOATS:
        return choice
    if dtype.startswith("F"):
        raise RecipeError(
            f"tensor {name} can't be merged in its type",
            got=dtype,
            expected=", ".join(FLOATS),
            hint=f"dequantise the checkpoints, or write in the recipe: select: {{exclude: ['^{name}$']}}",
        )
    return Choice("copy", f"not floating-point ({dtype})")


def _matches(match: Match, name: str, role: Role, has_roles: bool) -> bool:
    """Without roles there are no kinds either, unless the recipe names some."""
    if match.components is not None and role.component not in match.components:
        return False
    kinds_count = has_roles or "kinds" in match.model_fields_set
    if kinds_count and match.kinds is not None and role.kind not in match.kinds:
        return False
    return match.accepts_name(name)


def _why_not(match: Match, name: str, role: Role, has_roles: bool) -> str:
    if match.components is not None and role.component not in match.components:
        return f"component {role.component} is not selected"
    if has_roles and match.kinds is not None and role.kind not in match.kinds:
        return f"kind {role.kind} is not selected"
    return "left out by include/exclude"


def layout_of(role: Role, shape: Sequence[int]) -> Layout:
    """How a tensor of this role holds matrices."""
    if sum(length > 1 for length in shape) < 2 or len(shape) < 2:
        return "vector"
    if len(shape) == 2:
        return "transposed" if role.transposed else "matrix"
    if len(shape) == 3 and role.kind != "conv":
        return "transposed_stack" if role.transposed else "stack"
    return "flatten"
