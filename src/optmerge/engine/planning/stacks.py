"""Stacked experts in a merged adapter: which parameter of the class a tensor of the base belongs to.

PEFT adapts a stack by `target_parameters`. The base's file may hold the stack, or its experts one by one and
in parts. What a given adapter says of both leads back from the merged tensors to the stack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optmerge.checkpoints.adapter_tensors import DEFINED
from optmerge.checkpoints.adapters import TargetPiece
from optmerge.engine.plan import TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.errors import RecipeError


@dataclass(frozen=True)
class StackPlace:
    """Where in a stack of experts a tensor of the base lies.

    Args:
        parameter: name of the stack in the class.
        shape: (experts, outputs, inputs) of its factors; a matrix, such as a router's, is a stack of one.
        rank: of one expert's change at most: the sum of the given adapters' ranks; None where a full expert
            changes the tensor, too.
        piece: the tensor's part of the stack.
    """

    parameter: str
    shape: tuple[int, ...]
    rank: int | None
    piece: TargetPiece


def check_stacks(tensors: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses stacks that PEFT can't adapt together, or beside what else is merged.

    Args:
        tensors: those that are merged into an adapter.
        inputs: the base and the experts.

    Raises:
        RecipeError: a module has stacks of unknown order, or there are stacks beside transposed layers.
    """
    places = [place for tensor in tensors if (place := stack_place(tensor.name, inputs)) is not None]
    names = sorted({place.parameter for place in places})
    modules = Counter(name.rpartition(".")[0] for name in names)
    for name in names:
        module, _, parameter = name.rpartition(".")
        if modules[module] > 1 and parameter not in DEFINED:
            raise RecipeError(
                "an adapter can't hold several stacks of one module whose order isn't known",
                where="output",
                got=name,
                expected=f"one stack, or those that transformers names {', '.join(DEFINED)}",
                hint="write output: dense; or leave one out with select: {exclude: […]}",
            )
    turned = next((tensor.name for tensor in tensors if tensor.layout == "transposed"), None)
    if names and turned is not None:
        raise RecipeError(
            "an adapter can't hold stacks of experts beside layers that are stored (inputs, outputs)",
            where="output",
            got=f"{names[0]} and {turned}",
            expected="one of the two, since PEFT has one fan_in_fan_out for all",
            hint="write output: dense; or leave one out with select: {exclude: […]}",
        )


def stack_place(name: str, inputs: Inputs) -> StackPlace | None:
    """The place of a tensor of the base by the given adapters; None where these differ, or adapt no stack.

    Args:
        name: the base's name of the tensor.
        inputs: the base and the experts.
    """
    changing = [expert for expert in inputs.experts if expert.changes(name)]
    adapters = [expert for expert in changing if isinstance(expert, AdapterExpert)]
    targets = [each.adapter.targets[each.tensors[name].target] for each in adapters]
    if not targets or not all(target.stacked for target in targets):
        return None
    if len(targets[0].shape) == 2 and targets[0].shape != inputs.base.info(name).shape:
        return None
    canonical = inputs.base.architecture.canonical
    found = {
        (canonical(target.name), target.shape, piece.expert, piece.rows, piece.transposed)
        for target, piece in zip(targets, (each.tensors[name] for each in adapters), strict=True)
    }
    if len(found) > 1:
        return None
    ranks = [target.rank or 0 for target in targets]
    return StackPlace(
        canonical(targets[0].name),
        (1, *targets[0].shape)[-3:],
        sum(ranks) if len(adapters) == len(changing) else None,
        adapters[0].tensors[name],
    )
