"""Opening the base and all experts of a recipe, from headers and configs alone."""

from __future__ import annotations

import re

from optmerge.architectures import resolve
from optmerge.checkpoints.adapters import Adapter, open_model
from optmerge.checkpoints.checkpoint import Checkpoint, is_adapter, open_checkpoint
from optmerge.checkpoints.hub import locate
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, Base, FullExpert, Inputs
from optmerge.engine.planning.matching import aliases, by_canonical, match_adapter, match_checkpoint
from optmerge.engine.planning.recipe_checks import check_recipe
from optmerge.engine.planning.vocabulary import check_vocabulary
from optmerge.errors import CheckpointError
from optmerge.recipe import Expert, Recipe


def open_inputs(recipe: Recipe) -> Inputs:
    """Opens and matches the base and all experts; reads headers and configs only.

    Raises:
        InputError: something is missing, unreadable, or doesn't fit together.
    """
    check_recipe(recipe)
    base = open_base(recipe)
    names = recipe.expert_names()
    pairs = zip(recipe.experts, names, strict=True)
    return Inputs(base, tuple(_open_expert(spec, name, base, recipe) for spec, name in pairs))


def open_base(recipe: Recipe) -> Base:
    """Opens the base."""
    if is_adapter(locate(recipe.base, allow_pickle=recipe.allow_pickle)):
        raise CheckpointError(
            "the base is an adapter",
            where=recipe.base,
            expected="a full checkpoint",
            hint="give the model the adapter was trained on as base, and the adapter as an expert",
        )
    checkpoint = open_checkpoint(recipe.base, allow_pickle=recipe.allow_pickle)
    _refuse_quantised(checkpoint)
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    names = by_canonical(architecture, checkpoint)
    return Base(checkpoint, architecture, aliases(architecture, checkpoint, names), names)


def _open_expert(spec: Expert, name: str, base: Base, recipe: Recipe) -> AnyExpert:
    ignored = [re.compile(pattern) for pattern in recipe.ignore]
    model = open_model(spec.model, allow_pickle=recipe.allow_pickle)
    if isinstance(model, Adapter):
        return AdapterExpert(name, spec, model, match_adapter(model, spec, base, ignored))
    _refuse_quantised(model)
    check_vocabulary(base.checkpoint, model, name)
    return FullExpert(name, spec, model, match_checkpoint(model, name, base, ignored))


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    if checkpoint.config and checkpoint.config.get("quantization_config"):
        raise CheckpointError(
            "the checkpoint is quantised",
            where=checkpoint.path,
            got=checkpoint.config["quantization_config"].get("quant_method", "quantization_config"),
            expected="float32, bfloat16 or float16 weights",
            hint="merge the unquantised checkpoints and quantise the result",
        )
