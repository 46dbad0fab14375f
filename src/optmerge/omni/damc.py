"""DAMC: embeddings of a modality go through its own expert's adapter, text through the average of all.

Source: Chen et al., Model Composition for Multimodal Large Language Models, 2024. There each expert is
trained with parameters for text apart from those for its modality. Experts trained with one adapter each, as
here, are decoupled when they are composed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.dtypes import DTYPES
from optmerge.deltas import LowRank
from optmerge.engine.planning.inputs import AdapterExpert, Base, Inputs
from optmerge.errors import AdapterError, InputError
from optmerge.omni.experts import LANGUAGE
from optmerge.omni.routing import TEXT
from optmerge.recipe import Recipe

DAMC = "damc"

Routed = dict[str, LowRank]
"""Route → low-rank change of a linear layer for the tokens of that route."""


def check_settings(recipe: Recipe) -> None:
    """Refuses settings of the method, which has none, and an adapter as output.

    Raises:
        InputError: the recipe sets a parameter or a scale, or asks for an adapter.
    """
    method = recipe.method
    if method.parameters or method.scale is not None:
        given = [*method.parameters, *(["scale"] if method.scale is not None else [])]
        raise InputError("damc has no settings", got=", ".join(given), hint="leave them out")
    if recipe.output.format != "dense":
        raise InputError(
            "damc has no single adapter",
            where="output",
            got="adapter",
            hint="leave the output dense; its adapters stay factors there",
        )


def routed_tensors(
    inputs: Inputs, owners: dict[str, str]
) -> tuple[dict[str, dict[str, int]], dict[str, Tensor]]:
    """Routes of the composed model, as `OmniConfig.routes` has them, and their factors by tensor name.

    Args:
        inputs: base, and experts that are adapters.
        owners: modality → name of the expert whose adapter the modality's embeddings go through.

    Raises:
        AdapterError: an expert isn't a plain LoRA adapter of linear layers.
    """
    experts = [_plain_lora(expert) for expert in inputs.experts]
    ranks: dict[str, dict[str, int]] = {}
    tensors: dict[str, Tensor] = {}
    for name in sorted({name for expert in experts for name in expert.tensors}):
        dtype = _linear(inputs.base, name)
        module = name.removesuffix(".weight")
        routes = _routes(name, experts, owners, inputs.base.info(name).shape)
        ranks[module.removeprefix(LANGUAGE)] = {route: factors.rank for route, factors in routes.items()}
        for route, factors in routes.items():
            tensors[f"{module}.down.{route}"] = factors.down.to(dtype)
            tensors[f"{module}.up.{route}"] = factors.up.to(dtype)
    return ranks, tensors


def _routes(
    name: str, experts: Sequence[AdapterExpert], owners: dict[str, str], shape: tuple[int, ...]
) -> Routed:
    deltas = {expert.name: _factors(expert, name, shape) for expert in experts}
    share = 1 / len(experts)
    scaled = [deltas[expert.name].scaled(share * expert.spec.weight) for expert in experts]
    text = LowRank(torch.cat([each.up for each in scaled], 1), torch.cat([each.down for each in scaled]))
    routes = {TEXT: text, **{modality: deltas[owner] for modality, owner in owners.items()}}
    return {route: factors for route, factors in routes.items() if factors.rank}


def _factors(expert: AdapterExpert, name: str, shape: tuple[int, ...]) -> LowRank:
    delta = expert.delta(name, _unread, shape)
    assert isinstance(delta, LowRank)
    if not all(bool(torch.isfinite(part).all()) for part in delta.parts):
        raise AdapterError(
            f"the change of {name} by expert {expert.name!r} holds NaN or infinity",
            where=expert.adapter.file,
            expected="finite values",
            hint="find a sound copy of this adapter; nothing has been written",
        )
    return delta


def _unread() -> Tensor:
    raise AssertionError("plain LoRA needs no look at the base")


def _plain_lora(expert: Any) -> AdapterExpert:
    if not isinstance(expert, AdapterExpert) or not expert.low_rank:
        raise AdapterError(
            f"damc keeps adapters apart, and expert {expert.name!r} is no plain LoRA adapter",
            where=expert.path,
            hint="compose it by another method, such as naivemc or optmerge",
        )
    return expert


def _linear(base: Base, name: str) -> torch.dtype:
    """Type of a linear layer's weight.

    Raises:
        AdapterError: the tensor is no weight of a linear layer.
    """
    info = base.info(name)
    role = base.architecture.role(name, info.shape)
    if role.kind not in ("matrix", "head") or role.transposed or len(info.shape) != 2:
        raise AdapterError(
            "damc takes adapters of linear layers only",
            got=f"{name}, {role.kind}",
            hint="compose by another method, such as naivemc or optmerge",
        )
    return DTYPES[info.dtype].torch
