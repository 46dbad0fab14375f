"""Composition: experts of different modalities become one model with all their towers.

The composed model, before anything is merged, is the base language model beside the experts' towers: a view
of tensors in several files. To the engine that view is the base of an ordinary merge, and the experts'
language models are its experts; so everything the engine promises holds here, and towers are copied like any
tensor that isn't selected, bit for bit.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.architectures import resolve
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.checkpoints.side_files import list_side_files
from optmerge.engine.merge import Options, Result, Watch, check_request, merge, silent
from optmerge.engine.output.folder import Mode, check_usable
from optmerge.engine.planning.inputs import Base, Inputs
from optmerge.engine.planning.opening import aliases, by_canonical
from optmerge.errors import InputError, OutputError, RecipeError
from optmerge.omni.config import OmniConfig
from optmerge.omni.conflicts import ONE_TOKENIZER, check_language, check_placeholders, choose_towers
from optmerge.omni.damc import DAMC, check_settings, routed_tensors
from optmerge.omni.experts import Language, OmniExpert, open_expert, open_language
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor
from optmerge.omni.stored import write_view
from optmerge.recipe import Recipe, Select, parse_recipe

NAIVE_MC = "naivemc"
"""NaiveMC (Chen et al. 2024): the plain average of all the experts learnt in the language model."""


@dataclass(frozen=True)
class Composition:
    """Everything a composition reads.

    Args:
        language: the base language model.
        experts: in the order of the recipe.
        towers: modality → the expert whose tower is kept.
        config: of the composed model.
        inputs: for the engine.
    """

    language: Language
    experts: tuple[OmniExpert, ...]
    towers: Mapping[str, OmniExpert]
    config: OmniConfig
    inputs: Inputs

    def record(self, method: str) -> dict[str, Any]:
        """Where it comes from, for a model that isn't written by the engine."""
        base = self.language.checkpoint
        experts = [
            {"name": each.name, "model": each.spec.model, "weight": each.spec.weight, **own.identity()}
            for each, own in zip(self.experts, self.inputs.experts, strict=True)
        ]
        return {
            "format": 1,
            "composed": method,
            "base": {"model": base.ref, "identity": base.identity()},
            "experts": experts,
            "towers": {modality: expert.name for modality, expert in self.towers.items()},
        }


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
    mode: Mode = "new",
    device: str = "cpu",
    memory: str | int | None = None,
    watch: Watch = silent,
) -> Composed:
    """Composes experts of different modalities into one omni model.

    Args:
        recipe: as for `optmerge.merge`; its base is the language model, its experts are omni checkpoints or
            PEFT adapters of omni checkpoints (with their projectors in `modules_to_save`). Its method may be
            `naivemc` or `damc`, too. With `output: adapter` the folder gets `base`, the composed model before
            the merge, and `adapter`, one for it.
        out: the output folder.
        towers: modality → name of the expert whose tower is kept, where several have one.
        mode: as in `optmerge.Options`.
        device: as in `optmerge.Options`.
        memory: as in `optmerge.Options`.
        watch: as for `optmerge.merge`.

    Raises:
        InputError: the experts can't be composed, or as `optmerge.merge`.
        RunError: the disk is full or failed.
    """
    recipe, out = _plain_method(parse_recipe(recipe)), Path(out)
    _check_recipe(recipe)
    adapter, options = recipe.output.format == "adapter", Options(mode, device, memory)
    target = out / "adapter" if adapter else out
    if recipe.method.name != DAMC:
        check_request(recipe, target, options)
    with opened(recipe, out, towers or {}) as composition:
        if recipe.method.name == DAMC:
            return _decouple(composition, recipe, out, mode)
        inputs = composition.inputs
        if adapter:
            recipe = recipe.model_copy(update={"base": "../base"})
            _check_free(out / "base", mode)
        result = merge(recipe, target, options, watch, inputs=inputs)
        if not adapter:
            return Composed(out, None, result)
        write_view(inputs.base.checkpoint, out / "base", composition.record("base"))
        return Composed(out / "base", target, result)


def _decouple(composition: Composition, recipe: Recipe, out: Path, mode: Mode) -> Composed:
    """The composed model with an adapter for each modality's embeddings and one for text."""
    check_settings(recipe.method)
    _check_free(out, mode)
    if recipe.output.format != "dense":
        raise InputError(
            "damc has no single adapter",
            where="output",
            got="adapter",
            hint="leave the output dense; its adapters stay factors there",
        )
    owners = {modality: expert.name for modality, expert in composition.towers.items()}
    routes, tensors = routed_tensors(composition.inputs, owners)
    composition.config.routes = routes
    base = composition.inputs.base.checkpoint
    composition.config.save_pretrained(base.path)
    write_view(base, out, composition.record(DAMC), tensors)
    return Composed(out)


@contextmanager
def opened(recipe: Recipe, out: Path, towers: Mapping[str, str]) -> Iterator[Composition]:
    """Opens everything, and holds the composed model's side files in a folder meanwhile.

    Raises:
        InputError: anything that keeps these experts from being composed.
    """
    language = open_language(recipe.base)
    pairs = zip(recipe.experts, recipe.expert_names(), strict=True)
    experts = tuple(open_expert(spec, name) for spec, name in pairs)
    chosen = choose_towers(experts, towers)
    check_placeholders(chosen)
    for expert in experts:
        check_language(language, expert)
    _check_output(out, [language.checkpoint.path, *(path for expert in experts for path in expert.paths)])
    config = OmniConfig(
        text_config=language.text_config,
        towers={modality: expert.config.towers[modality] for modality, expert in chosen.items()},
        architectures=[OmniForConditionalGeneration.__name__],
        dtype=language.text_config.dtype,
    )
    processor = _processor(config, chosen)
    # One name per output, so that an interrupted composition is resumed with the same provenance.
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    scratch = Path(tempfile.gettempdir()) / f"optmerge-omni-{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    with disk_errors(scratch):
        scratch.mkdir(mode=0o700)
    try:
        _write_side_files(scratch, language, config, processor)
        base = _base(scratch, recipe.base, language, chosen, config)
        yield Composition(
            language, experts, chosen, config, Inputs(base, tuple(each.deltas(base) for each in experts))
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plain_method(recipe: Recipe) -> Recipe:
    """The recipe in the engine's own words."""
    if recipe.method.name != NAIVE_MC:
        return recipe
    changes: dict[str, Any] = {"method": recipe.method.model_copy(update={"name": "average"})}
    if "select" not in recipe.model_fields_set:
        changes["select"] = Select(components=["language"], kinds=None)
    return recipe.model_copy(update=changes)


def _check_recipe(recipe: Recipe) -> None:
    """Refuses what means nothing in a composition.

    Raises:
        RecipeError: side files of someone, pickles, or a selection for `damc`, which takes all there is.
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


def _base(
    folder: Path, ref: str, language: Language, towers: Mapping[str, OmniExpert], config: OmniConfig
) -> Base:
    """The composed model with the base's language model: a view of tensors in several files."""
    tensors: dict[str, TensorInfo] = dict(language.tensors)
    headers = dict(language.checkpoint.headers)
    for modality, expert in towers.items():
        tensors |= expert.tower(modality)
        headers |= expert.headers
    view = Checkpoint(
        path=folder,
        ref=ref,
        tensors=dict(sorted(tensors.items())),
        headers=headers,
        config=config.to_dict(),
        metadata={},
        side_files=tuple(list_side_files(folder)),
        index_total_size=None,
    )
    family = resolve(view.config, view.tensors)
    names = by_canonical(family, view)
    return Base(view, family, aliases(family, view, names), names)


def _processor(config: OmniConfig, towers: Mapping[str, OmniExpert]) -> OmniProcessor:
    """The experts' extractors, and a tokenizer of theirs that reads every placeholder."""
    own = {modality: OmniProcessor.from_pretrained(expert.model.path) for modality, expert in towers.items()}
    extractors = {modality: each.extractors[modality] for modality, each in own.items()}
    problem: InputError | None = None
    for each in own.values():
        try:
            return OmniProcessor(each.tokenizer, config.towers, extractors, each.chat_template)
        except InputError as found:
            problem = found
    raise InputError(
        "no expert's tokenizer reads all placeholders", got=problem and problem.what, hint=ONE_TOKENIZER
    ) from problem


def _write_side_files(folder: Path, language: Language, config: OmniConfig, processor: OmniProcessor) -> None:
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("generation_config.json", "README.md"):  # of the latter the licence is read
        source = language.checkpoint.path / name
        if source.is_file():
            shutil.copyfile(source, folder / name)


def _check_free(folder: Path, mode: Mode) -> None:
    """Refuses a folder that is in use; what is written at one go can't be resumed, only written again."""
    check_usable(folder, "overwrite" if mode == "resume" else mode)


def _check_output(out: Path, sources: list[Path]) -> None:
    for source in sources:
        if out.resolve() == source.resolve() or out.resolve() in source.resolve().parents:
            raise OutputError(
                "the output folder holds an input", where=out, got=source, hint="choose another --out"
            )
