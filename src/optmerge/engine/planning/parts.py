"""What a routed output holds beside the merge, decided from headers: parts of experts, and a router."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from optmerge.architectures import peft_places
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.engine.plan import Action, Routed, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.engine.planning.selection import EXPERT
from optmerge.errors import RecipeError
from optmerge.recipe import Recipe

BUDGET, THRESHOLD = 0.2, 0.05

DIRECTIONS = 0.4
"""Most directions that the router keeps of each expert, as a share of the width."""

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(\d+)\.")

READERS = (
    re.compile(
        r"\.(mlp|feed_forward|ffn)\.(gate_up_proj|gate_proj|up_proj|fc1|c_fc|w1|w3|dense_h_to_4h)\.weight$"
    ),
    re.compile(
        r"\.(self_attn|attn|attention|self_attention)\."
        r"(q_proj|k_proj|v_proj|qkv_proj|qkv|c_attn|query_key_value|wqkv|in_proj|query|key|value)\.weight$"
    ),
)
"""Matrices that share their input: first those that begin an MLP, then those that begin an attention."""


def plan_routed(recipe: Recipe, tensors: Sequence[TensorPlan], inputs: Inputs) -> Routed | None:
    """What a routed output holds beside the merge; None for other outputs.

    Raises:
        RecipeError: no router or no part can be made of what is merged, or the budget is too small.
    """
    if recipe.output.format != "routed":
        return None
    canonical = inputs.base.architecture.canonical
    readers = _readers(tensors, inputs)
    _check_read(readers, inputs)
    merged = [tensor for tensor in tensors if tensor.action is Action.MERGE]
    found = set(_adaptable(merged, inputs))
    parts = [tensor for tensor in merged if tensor.name in found]
    if not parts:
        raise RecipeError(
            "no merged tensor can be changed by an adapter, so experts can have no parts",
            where="output",
            got=merged[0].name,
            expected="matrices of linear layers",
            hint="write output: dense, or select such matrices",
        )
    width = readers[0].shape[0 if readers[0].layout == "transposed" else 1]
    directions = _directions(readers, width, inputs)
    total = sum(prod(tensor.shape) for tensor in tensors if tensor.action is not Action.ALIAS)
    budget = BUDGET if recipe.output.budget is None else recipe.output.budget
    weights, router = int(budget * total), len(inputs.experts) * directions * width
    least = router + min(sum(part.shape) for part in parts)
    if weights < least:
        raise RecipeError(
            "the budget is too small for the router and one direction of one matrix",
            where="output.budget",
            got=f"{budget:g}, which is {weights:,} weights",
            expected=f"at least {least / total:.2g}",
        )
    itemsize = max(DTYPES[part.out_dtype].itemsize for part in parts)
    threshold = recipe.output.threshold
    return Routed(
        tensors=tuple(part.name for part in parts),
        left=tuple(tensor.name for tensor in merged if tensor.name not in found),
        readers=tuple(tensor.name for tensor in readers),
        module=canonical(readers[0].name).removesuffix(".weight"),
        width=width,
        directions=directions,
        weights=weights,
        share=budget,
        nbytes=(weights - router) * itemsize + router * 2,
        threshold=THRESHOLD if threshold is None else threshold,
    )


def _readers(tensors: Sequence[TensorPlan], inputs: Inputs) -> list[TensorPlan]:
    """Merged matrices of the first layer that share the input which the router reads."""
    canonical = inputs.base.architecture.canonical
    if inputs.base.checkpoint.config is None:
        raise _no_router("a base without config.json", "a checkpoint that transformers can load")
    if inputs.base.side_files is not None:
        raise _no_router("a model that is composed of several", "a model with one base")
    language = [tensor for tensor in tensors if tensor.component == "language"]
    halves = {half for half in ("encoder", "decoder") for t in language if f"{half}." in canonical(t.name)}
    if len(halves) == 2:
        raise _no_router("an encoder and a decoder", "a language model with one stack of layers")
    merged = [
        tensor
        for tensor in language
        if tensor.action is Action.MERGE and tensor.layout in ("matrix", "transposed")
    ]
    for pattern in READERS:
        found = [tensor for tensor in merged if pattern.search(canonical(tensor.name))]
        first = [tensor for tensor in found if _layer(canonical(tensor.name)) == 0]
        if first:
            return sorted(first, key=lambda tensor: tensor.name)
    raise _no_router(
        "no merged matrix begins the MLP or the attention of the first layer",
        "such as model.layers.0.mlp.gate_proj.weight",
    )


def _no_router(got: str, expected: str) -> RecipeError:
    return RecipeError(
        "no router can be made for these models",
        where="output",
        got=got,
        expected=expected,
        hint="write output: dense, or select the matrices of the first layer",
    )


def _layer(name: str) -> int | None:
    found = LAYER.search(name)
    return int(found[1]) if found else None


def _check_read(readers: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses an expert that holds nothing of what the router reads."""
    for expert in inputs.experts:
        if not any(expert.changes(tensor.name) for tensor in readers):
            raise RecipeError(
                f"the router can't tell expert {expert.name!r} from the others",
                where="output",
                got=f"the expert doesn't change {readers[0].name}",
                expected="experts that all change it",
                hint="write output: dense, or leave the expert out",
            )


def _adaptable(merged: Sequence[TensorPlan], inputs: Inputs) -> list[str]:
    """Merged matrices that PEFT can put factors on; all of them where the base's class isn't known."""
    canonical = inputs.base.architecture.canonical
    matrices = [
        tensor
        for tensor in merged
        if tensor.kind == "matrix"
        and tensor.layout in ("matrix", "transposed")
        and canonical(tensor.name).endswith(".weight")
        and not EXPERT.search(canonical(tensor.name))
    ]
    places = peft_places(inputs.base.checkpoint.config or {})
    if isinstance(places, str):
        return [tensor.name for tensor in matrices]
    return [
        tensor.name
        for tensor in matrices
        if canonical(tensor.name).removesuffix(".weight") in places.adaptable
    ]


def _directions(readers: Sequence[TensorPlan], width: int, inputs: Inputs) -> int:
    """Most directions that every expert's change of what the router reads can have."""
    ranks = [
        sum(expert.rank(tensor.name) or 0 for tensor in readers)
        for expert in inputs.experts
        if isinstance(expert, AdapterExpert) and expert.low_rank
    ]
    rows = sum(prod(tensor.shape) // width for tensor in readers)
    return max(1, min([int(DIRECTIONS * width), rows, *ranks]))
