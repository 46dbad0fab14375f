"""Whether PEFT finds in the base's class what a merged adapter is about to change.

PEFT passes over names that it doesn't find, so a merged adapter of such names would do nothing. A given
adapter's own names are proof that its base's class has them. All other names are looked up in the class that
transformers has for the base's config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optmerge.architectures import PeftPlaces, peft_places
from optmerge.engine.plan import Action, TensorPlan
from optmerge.engine.planning.ends import tied_pairs
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.engine.planning.stacks import stack_place
from optmerge.errors import RecipeError
from optmerge.recipe import Recipe


def check_found_by_peft(recipe: Recipe, tensors: Sequence[TensorPlan], inputs: Inputs) -> tuple[str, ...]:
    """Refuses a merged adapter of names that the base's class lacks; transformers is imported only to look.

    Returns:
        What to say where the base has no class to look in.

    Raises:
        RecipeError: PEFT wouldn't find a target, or can't adapt its module.
    """
    if recipe.output.format != "adapter":
        return ()
    unproved = [change for change in _changes(tensors, inputs) if not _is_proved(change, inputs)]
    if not unproved:
        return ()
    config = inputs.base.checkpoint.config
    places = "the base has no config.json" if config is None else peft_places(config)
    if isinstance(places, str):
        return (
            f"it isn't known whether PEFT finds {_some(unproved)} in the base's class, "
            f"since no given adapter has the name and {places}; write output: dense to be sure",
        )
    lost = [change for change in unproved if not _is_found(change, places)]
    if lost:
        raise RecipeError(
            "a merged adapter would change what PEFT doesn't find in the base's class, or can't adapt",
            where="output",
            got=_some(lost),
            expected=f"linear layers, embeddings, convolutions or whole other modules of {places.name}",
            hint="write output: dense; or leave them out with select: {exclude: […]}",
        )
    return ()


@dataclass(frozen=True)
class _Change:
    """A parameter by the name that a merged adapter gives it, and whether it is replaced, or a stack."""

    name: str
    replaced: bool
    stacked: bool


def _changes(tensors: Sequence[TensorPlan], inputs: Inputs) -> list[_Change]:
    """What is written, each once; both ends of a tied base."""
    found: dict[str, _Change] = {}
    for tensor in tensors:
        if tensor.action is Action.MERGE:
            place = stack_place(tensor.name, inputs)
            name = inputs.base.architecture.canonical(tensor.name) if place is None else place.parameter
            found[name] = _Change(name, tensor.layout == "vector", place is not None)
    for alias, source in tied_pairs(inputs.base):
        if source in found:
            found[alias] = replace(found[source], name=alias)
    return list(found.values())


def _is_proved(change: _Change, inputs: Inputs) -> bool:
    """Whether a given adapter's file has a change of this form under this name."""
    for expert in inputs.experts:
        if not isinstance(expert, AdapterExpert) or expert.renamed:
            continue
        target = expert.adapter.targets.get(change.name)
        if target is None or any(part.file != expert.adapter.file for part in target.parts.values()):
            continue
        if change.replaced or (target.rank is not None and target.stacked == change.stacked):
            return True
    return False


def _is_found(change: _Change, places: PeftPlaces) -> bool:
    module = change.name.removesuffix(".weight")
    return change.name in places.parameters and (
        change.replaced or change.stacked or module in places.adaptable
    )


def _some(changes: Sequence[_Change]) -> str:
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0].name}{more}"
