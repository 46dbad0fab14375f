"""The composed model before anything is merged: the base language model beside the experts' towers.

It is a view of tensors that lie in several files. To the engine that view is the base of an ordinary merge,
and the experts' language models are its experts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optmerge.architectures import resolve
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.output.provenance import FORMAT
from optmerge.engine.output.public_names import public_name
from optmerge.engine.planning.ends import aliases
from optmerge.engine.planning.inputs import Base, Inputs
from optmerge.engine.planning.opening import by_canonical
from optmerge.errors import InputError
from optmerge.omni.carried_code import carried_code, code_record
from optmerge.omni.config import OmniConfig, TowerConfig, check_placeholders
from optmerge.omni.conflicts import ONE_TOKENIZER, check_language, choose_towers
from optmerge.omni.experts import Language, OmniExpert, open_expert, open_language
from optmerge.omni.forms import Form, check_form
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.omni.processor import OmniProcessor
from optmerge.recipe import Recipe

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class ComposedSideFiles:
    """The composed model's files beside its weights, which are made and not copied.

    Args:
        language: the base language model.
        processor: processor of the composed model; its towers are the model's.
        form: class of transformers that the model is written as; None for an omni model.
    """

    language: Language
    processor: OmniProcessor
    form: Form | None = None

    def config(self, routes: Mapping[str, Any] | None = None) -> Any:
        """Configuration of the composed model, with the routes of its adapters if it has some."""
        if self.form is None:
            return composed_config(self.language, self.processor.towers, routes)
        text = self.language.text_config
        config = self.form.config(text, self.processor.towers[self.form.modality])
        config.architectures, config.dtype = [self.form.model_class], text.dtype
        return config

    @property
    def record(self) -> dict[str, Any]:
        """What provenance says of the files: the form, or the code that the model carries."""
        if self.form is not None:
            return {"composed": self.form.name}
        code = carried_code(self.processor.towers)
        return {"code": code_record(code)} if code else {}

    def write(self, folder: Path, routes: Mapping[str, Any] | None = None) -> None:
        """Writes configuration, processor, code and the language model's generation settings into a folder.

        Raises:
            RunError: the disk is full or failed.
            OutputError: the folder can't be written to.
        """
        generation = self.language.checkpoint.path / GENERATION
        with disk_errors(folder):
            self.config(routes).save_pretrained(folder)
            if self.form is not None:
                self.form.processor(self.processor).save_pretrained(folder)
                self._generation().save_pretrained(folder)
                return
            self.processor.save_pretrained(folder)
            if generation.is_file():
                shutil.copyfile(generation, folder / GENERATION)

    def _generation(self) -> Any:
        """The language model's generation settings, with placeholders suppressed as in omni models."""
        from transformers import GenerationConfig

        folder = self.language.checkpoint.path
        if (folder / GENERATION).is_file():
            settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
        else:
            settings = GenerationConfig.from_model_config(self.language.text_config)
        placeholders = [tower.token_id for tower in self.processor.towers.values()]
        settings.suppress_tokens = [*(settings.suppress_tokens or ()), *placeholders]
        return settings


@dataclass(frozen=True)
class Composition:
    """Everything that a composition reads.

    Args:
        language: the base language model.
        experts: the experts, in the order of the recipe.
        towers: modality → the expert whose tower is kept.
        side_files: files beside the weights.
        inputs: base and experts of the merge, for the engine.
    """

    language: Language
    experts: tuple[OmniExpert, ...]
    towers: Mapping[str, OmniExpert]
    side_files: ComposedSideFiles
    inputs: Inputs

    @property
    def paths(self) -> tuple[Path, ...]:
        """Folders and files of all models that are read."""
        return (self.language.checkpoint.path, *(path for each in self.experts for path in each.paths))

    def record(self, method: str) -> dict[str, Any]:
        """Provenance of a composed model that the engine's merge doesn't write; from headers alone."""
        base = self.language.checkpoint
        experts = [
            {
                "name": each.name,
                "model": public_name(each.spec.model, own.path),
                "weight": each.spec.weight,
                "kind": own.identity()["kind"],
                "headers": own.identity()["identity"],
                "bytes": own.identity()["bytes"],
            }
            for each, own in zip(self.experts, self.inputs.experts, strict=True)
        ]
        return {
            **self.inputs.base.record,
            "format": FORMAT,
            "composed": method,
            "base": {"model": public_name(base.ref, base.path), "headers": base.identity()},
            "experts": experts,
            "towers": {modality: expert.name for modality, expert in self.towers.items()},
        }


def open_composition(
    recipe: Recipe, towers: Mapping[str, str], ref: str | None = None, form: Form | None = None
) -> Composition:
    """Opens and matches everything that a composition reads; nothing is written.

    Args:
        recipe: what is composed.
        towers: modality → name of the expert whose tower is kept, where several have one.
        ref: what the merge's output calls its base; the recipe's own words by default.
        form: class of transformers that the model is written as; None for an omni model.

    Raises:
        InputError: anything that keeps these experts from being composed, or the model from being written so.
    """
    language = open_language(recipe.base)
    pairs = zip(recipe.experts, recipe.expert_names(), strict=True)
    experts = tuple(open_expert(spec, name) for spec, name in pairs)
    chosen = choose_towers(experts, towers)
    kept = {modality: expert.config.towers[modality] for modality, expert in chosen.items()}
    check_placeholders(kept, "experts", ONE_TOKENIZER)
    for expert in experts:
        check_language(language, expert)
    if form is not None:
        check_form(form, language.text_config, language.tensors, kept)
    side_files = ComposedSideFiles(language, _processor(composed_config(language, kept), chosen), form)
    base = _view(ref or recipe.base, language, chosen, side_files)
    configs = [
        form.config(each.config.text_config, kept[form.modality]) if form else None for each in experts
    ]
    deltas = tuple(
        expert.deltas(base, config and config.to_dict())
        for expert, config in zip(experts, configs, strict=True)
    )
    return Composition(language, experts, chosen, side_files, Inputs(base, deltas))


def composed_config(
    language: Language, towers: Mapping[str, TowerConfig], routes: Mapping[str, Any] | None = None
) -> OmniConfig:
    """Configuration of a language model with these towers."""
    return OmniConfig(
        text_config=language.text_config,
        towers=towers,
        routes=routes,
        architectures=[OmniForConditionalGeneration.__name__],
        dtype=language.text_config.dtype,
    )


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


def _view(
    ref: str, language: Language, towers: Mapping[str, OmniExpert], side_files: ComposedSideFiles
) -> Base:
    """The composed model with the base's language model; its card and its licence are those of the latter."""
    tensors: dict[str, TensorInfo] = dict(language.tensors)
    headers = dict(language.checkpoint.headers)
    for modality, expert in towers.items():
        tensors |= expert.tower(modality)
        headers |= expert.headers
    if side_files.form is not None:
        names = {name: side_files.form.renamed(name) for name in tensors}
        tensors = {names[name]: replace(info, name=names[name]) for name, info in tensors.items()}
    view = Checkpoint(
        path=language.checkpoint.path,
        ref=ref,
        tensors=dict(sorted(tensors.items())),
        headers=headers,
        config=side_files.config().to_dict(),
        metadata={},
        side_files=(),
        index_total_size=None,
    )
    family = resolve(view.config, view.tensors)
    names = by_canonical(family, view)
    return Base(view, family, aliases(family, view, names), names, side_files.write, record=side_files.record)
