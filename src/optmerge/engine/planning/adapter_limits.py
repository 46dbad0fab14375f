"""What a PEFT adapter can hold: factors of matrices, and modules replaced whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.errors import RecipeError
from optmerge.recipe import BASE, Recipe

if TYPE_CHECKING:
    from optmerge.engine.plan import TensorPlan

FACTORED = ("matrix", "transposed", "flatten")
"""Layouts of tensors that can be two factors."""


def check_adapter_output(recipe: Recipe, tensors: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses an adapter as output where it couldn't hold the merge.

    Raises:
        RecipeError: a full delta has full rank, or some tensor is no matrix and no whole module.
    """
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
        if tensor.action == "merge":
            fits = tensor.layout in FACTORED or _module(tensor) in replaceable
        else:
            fits = tensor.action == "alias" or tensor.source == BASE
        if not fits:
            raise RecipeError(
                f"an adapter can't hold {tensor.name}",
                where="output",
                got=f"{tensor.reason}, shape {list(tensor.shape)}, layout {tensor.layout}",
                expected="merged matrices, or merged whole modules without one",
                hint="leave it out with select: {exclude: […]}, or write output: dense",
            )


def _replaceable_modules(tensors: Sequence[TensorPlan]) -> frozenset[str]:
    """Modules that are merged vectors throughout, which `modules_to_save` can replace."""
    modules: dict[str, list[bool]] = defaultdict(list)
    for tensor in tensors:
        modules[_module(tensor)].append(tensor.action == "merge" and tensor.layout == "vector")
    return frozenset(module for module, vectors in modules.items() if all(vectors))


def _module(tensor: TensorPlan) -> str:
    return tensor.name.rpartition(".")[0]
