"""Composition: experts of different modalities become one model with all their towers.

The experts' language models are merged by the ordinary engine, whose base is the composed model before the
merge (`optmerge.omni.composed_model`). So everything the engine promises holds here, and towers are copied
like any tensor that isn't selected, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.engine.merge import (
    DEFAULT_OPTIONS,
    Options,
    Result,
    Watch,
    check_options,
    check_output_is_no_input,
    check_request,
    merge,
)
from optmerge.engine.output.folder import Mode
from optmerge.errors import RecipeError
from optmerge.omni.composed_model import Composition, open_composition
from optmerge.omni.composed_writer import write_composed
from optmerge.omni.damc import DAMC, check_settings, routed_tensors
from optmerge.omni.forms import form as named_form
from optmerge.recipe import Recipe, Select, parse_recipe

BASE, ADAPTER = "base", "adapter"
"""Folders of an output that is an adapter: the composed model before the merge, and the adapter for it."""

NAIVE_MC = "naivemc"
"""NaiveMC (Chen et al. 2024): the plain average of all the experts learnt in the language model."""


@dataclass(frozen=True)
class Composed:
    """What a composition wrote.

    Args:
        path: the omni model.
        adapter: the merged adapter for it; None where all is in the model.
        result: what the engine did; None for `damc`, which merges without it.
    """

    path: Path
    adapter: Path | None = None
    result: Result | None = None


def compose(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    towers: Mapping[str, str] | None = None,
    form: str | None = None,
    options: Options = DEFAULT_OPTIONS,
    watch: Watch | None = None,
) -> Composed:
    """Composes experts of different modalities into one omni model.

    Args:
        recipe: as for `optmerge.merge`; its base is the language model, its experts are omni checkpoints or
            PEFT adapters of omni checkpoints (with their projectors in `modules_to_save`). Its method may be
            `naivemc` or `damc`, too. With `output: adapter` the folder gets `base`, the composed model before
            the merge, and `adapter`, the merged adapter for it.
        out: the output folder.
        towers: modality → name of the expert whose tower is kept, where several have one.
        form: name of the class of transformers that the model is written as, see `optmerge.omni.forms`; an
            omni model by default.
        options: as for `optmerge.merge`; `damc` merges nothing, so it uses the mode alone.
        watch: as for `optmerge.merge`.

    Raises:
        InputError: the experts can't be composed, the form can't express the model, or as `optmerge.merge`.
        RunError: the disk is full or failed; `mode="resume"` continues.
    """
    recipe, out = _plain_method(parse_recipe(recipe)), Path(out)
    written_as = None if form is None else named_form(form)
    decoupled, split = recipe.method.name == DAMC, recipe.output.format == "adapter"
    target = out / ADAPTER if split else out
    _check_recipe(recipe)
    if decoupled and written_as is not None:
        raise written_as.misfit("damc gives each modality an adapter of its own", DAMC, "another method")
    if decoupled:
        check_options(out, options)
    else:
        check_request(recipe, target, options)
    if split:
        check_options(out / BASE, options)
    composition = open_composition(recipe, towers or {}, f"../{BASE}" if split else None, written_as)
    check_output_is_no_input(out, composition.paths)
    if decoupled:
        return _decouple(composition, out, options.mode)
    result = merge(recipe, target, options, watch, inputs=composition.inputs)
    if not split:
        return Composed(out, None, result)
    write_composed(composition, out / BASE, options.mode, method="base")
    return Composed(out / BASE, target, result)


def _decouple(composition: Composition, out: Path, mode: Mode) -> Composed:
    """The composed model with an adapter for each modality's embeddings and one for text."""
    owners = {modality: expert.name for modality, expert in composition.towers.items()}
    routes, tensors = routed_tensors(composition.inputs, owners)
    write_composed(composition, out, mode, method=DAMC, routes=routes, added=tensors)
    return Composed(out)


def _plain_method(recipe: Recipe) -> Recipe:
    """The recipe in the engine's own words."""
    if recipe.method.name != NAIVE_MC:
        return recipe
    changes: dict[str, Any] = {"method": recipe.method.model_copy(update={"name": "average"})}
    if "select" not in recipe.model_fields_set:
        changes["select"] = Select(components=["language"], kinds=None)
    return recipe.model_copy(update=changes)


def _check_recipe(recipe: Recipe) -> None:
    """Refuses a recipe that asks for what no composition, or not DAMC, can do.

    Raises:
        InputError: a donor of side files, pickles; for `damc` settings, a selection, or an adapter as output.
    """
    given = recipe.model_fields_set
    meaningless = {
        "side_files": "they are made for the composed model",
        "allow_pickle": "convert the checkpoints",
    }
    if recipe.method.name == DAMC:
        whole = "damc keeps whole adapters; leave it out"
        meaningless |= dict.fromkeys(("select", "rules", "ignore", "dtype"), whole)
    for key, hint in meaningless.items():
        if key in given:
            raise RecipeError("the recipe says what a composition can't follow", where=key, hint=hint)
    if recipe.method.name == DAMC:
        check_settings(recipe)
