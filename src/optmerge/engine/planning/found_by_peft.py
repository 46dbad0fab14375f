"""Whether PEFT finds in the base's class what a merged adapter is about to change.

PEFT passes over names that it doesn't find, so a merged adapter of such names would do nothing. A given
adapter's own names are proof that its base's class has them. All other names are looked up in the class that
transformers has for the base's config.
"""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.architectures import PeftPlaces, peft_places
from optmerge.engine.plan import Action, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, Base, Inputs
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
    written = [tensor for tensor in tensors if tensor.action is Action.MERGE]
    unproved = [tensor for tensor in written if not _is_proved(tensor, inputs)]
    if not unproved:
        return ()
    config = inputs.base.checkpoint.config
    places = "the base has no config.json" if config is None else peft_places(config)
    if isinstance(places, str):
        return (
            f"it isn't known whether PEFT finds {unproved[0].name}{_more(unproved)} in the base's class, "
            f"since no given adapter has the name and {places}; write output: dense to be sure",
        )
    lost = [tensor for tensor in unproved if not _is_found(tensor, inputs.base, places)]
    if lost:
        raise RecipeError(
            "a merged adapter would change what PEFT doesn't find in the base's class, or can't adapt",
            where="output",
            got=f"{inputs.base.architecture.canonical(lost[0].name)}{_more(lost)}",
            expected=f"linear layers, embeddings, convolutions or whole other modules of {places.name}",
            hint="write output: dense; or leave them out with select: {exclude: […]}",
        )
    return ()


def _is_proved(tensor: TensorPlan, inputs: Inputs) -> bool:
    """Whether a given adapter's file has this change, of this form, under the name that is written."""
    name = inputs.base.architecture.canonical(tensor.name)
    for expert in inputs.experts:
        if not isinstance(expert, AdapterExpert) or expert.renamed or not expert.changes(tensor.name):
            continue
        target = expert.adapter.targets[expert.tensors[tensor.name].target]
        own = all(part.file == expert.adapter.file for part in target.parts.values())
        form = tensor.layout == "vector" or (target.rank is not None and not target.stacked)
        if own and form and target.name == name:
            return True
    return False


def _is_found(tensor: TensorPlan, base: Base, places: PeftPlaces) -> bool:
    name = base.architecture.canonical(tensor.name)
    if tensor.layout == "vector":
        return name in places.parameters
    return name in places.parameters and name.removesuffix(".weight") in places.adaptable


def _more(tensors: Sequence[TensorPlan]) -> str:
    return f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
