"""The parts of a composition, opened from headers: a base language model, and experts with their towers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optmerge.architectures import resolve
from optmerge.checkpoints.adapter_config import locate_base
from optmerge.checkpoints.adapters import Adapter, open_model
from optmerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from optmerge.checkpoints.safetensors_format import Header, TensorInfo
from optmerge.engine.planning.adapter_matching import match_adapter
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, Base, FullExpert
from optmerge.engine.planning.opening import match_checkpoint
from optmerge.errors import AdapterError, CheckpointError, InputError
from optmerge.omni.config import OmniConfig
from optmerge.recipe import Expert

LANGUAGE, TOWERS = "language_model.", "towers."
"""Prefixes of an omni model's tensor names."""

_NOT_LANGUAGE = re.compile("^(?!" + re.escape(LANGUAGE) + ")")


@dataclass(frozen=True)
class Language:
    """A base language model, as the language model of an omni model.

    Args:
        checkpoint: checkpoint that holds the language model.
        text_config: configuration of the language model.
        tensors: tensors of the language model, by their names in an omni model.
    """

    checkpoint: Checkpoint
    text_config: Any
    tensors: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class OmniExpert:
    """An expert of a composition.

    Args:
        name: name of the expert.
        spec: the expert as the recipe has it.
        model: checkpoint of the expert, or of the omni model that its adapter was trained on.
        config: configuration of `model`.
        adapter: the adapter; None where the expert is a whole checkpoint.
    """

    name: str
    spec: Expert
    model: Checkpoint
    config: OmniConfig
    adapter: Adapter | None = None

    @property
    def language(self) -> dict[str, TensorInfo]:
        """Tensors of `model`'s language model."""
        return _starting(self.model.tensors, LANGUAGE)

    @property
    def headers(self) -> dict[Path, Header]:
        """Headers of all files that the expert is read from, by path."""
        own = self.adapter.headers if self.adapter else {}
        return {**self.model.headers, **own}

    @property
    def paths(self) -> list[Path]:
        """Folders that the expert is read from."""
        return [self.model.path, *([self.adapter.path] if self.adapter else [])]

    @property
    def trained(self) -> set[str]:
        """Modalities whose towers the adapter has trained; none without an adapter."""
        own = _trained_towers(self.adapter) if self.adapter else {}
        return {name.removeprefix(TOWERS).partition(".")[0] for name in own}

    def tower(self, modality: str) -> dict[str, TensorInfo]:
        """Tensors of one tower; those that the adapter has trained in place of its start's."""
        start = f"{TOWERS}{modality}."
        own = _trained_towers(self.adapter) if self.adapter else {}
        return {**_starting(self.model.tensors, start), **_starting(own, start)}

    def deltas(self, base: Base, config: dict[str, Any] | None = None) -> AnyExpert:
        """The expert's language model as an expert of the engine; factors of an adapter stay factors.

        Args:
            base: base of the composition.
            config: configuration of the expert in the base's form; its own where the base is an omni model.

        Raises:
            CheckpointError: the expert's language model has other tensors than the base.
            AdapterError: the adapter doesn't fit the base, or changes nothing in the language model.
        """
        if self.adapter is None:
            view = replace(self.model, tensors=self.language, config=config or self.model.config)
            return FullExpert(
                self.name, self.spec, view, *match_checkpoint(view, self.name, base, [_NOT_LANGUAGE])
            )
        targets = _starting(self.adapter.targets, LANGUAGE)
        if not targets:
            raise AdapterError(
                f"expert {self.name!r} changes nothing in the language model",
                where=self.adapter.path,
                hint="leave it out of the merge: compose takes towers only with what was learnt beside them",
            )
        adapter = replace(self.adapter, targets=targets)
        # That it was trained on this language model is compared by its weights, not by its base's name.
        spec = self.spec.model_copy(update={"any_base": True})
        return AdapterExpert(self.name, self.spec, adapter, match_adapter(adapter, spec, base, []))


def open_language(ref: str) -> Language:
    """Opens a causal language model, or the language model of an omni model.

    Raises:
        InputError: the reference leads to neither, or to something that can't be read.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    checkpoint = open_checkpoint(ref)
    if (checkpoint.config or {}).get("model_type") == OmniConfig.model_type:
        text = _omni_config(checkpoint).text_config
        return Language(checkpoint, text, _starting(checkpoint.tensors, LANGUAGE))
    text = _loaded(AutoConfig, checkpoint) if checkpoint.config else None
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            "the base is no causal language model",
            where=ref,
            got=(checkpoint.config or {}).get("model_type", "no config.json"),
            hint="give the language model that the experts were built around",
        )
    family = resolve(checkpoint.config, checkpoint.tensors)
    names = {name: LANGUAGE + family.canonical(name) for name in checkpoint.tensors}
    tensors = {names[name]: replace(info, name=names[name]) for name, info in checkpoint.tensors.items()}
    return Language(checkpoint, text, tensors)


def open_expert(spec: Expert, name: str) -> OmniExpert:
    """Opens an expert: an omni checkpoint, or a PEFT adapter that was trained on one.

    Raises:
        InputError: the reference leads to neither, the expert has no tower, or its adapter changes a tower by
            anything but whole tensors.
    """
    model = open_model(spec.model)
    adapter = model if isinstance(model, Adapter) else None
    checkpoint = open_checkpoint(locate_base(adapter.path, adapter.config)) if adapter else model
    assert isinstance(checkpoint, Checkpoint)
    config = _omni_config(checkpoint)
    if not config.towers:
        raise InputError(
            f"expert {name!r} has no tower",
            where=checkpoint.path,
            hint="compose experts with towers; merge language models with `optmerge merge`",
        )
    if adapter:
        _trained_towers(adapter)
        if adapter.beside:
            raise AdapterError(
                "other weights lie beside the adapter",
                where=next(iter(adapter.beside)),
                expected="an omni model's adapter, which holds all that was trained",
                hint="move them out of the adapter's folder if they don't belong to it",
            )
    return OmniExpert(name, spec, checkpoint, config, adapter)


def _omni_config(checkpoint: Checkpoint) -> OmniConfig:
    kind = (checkpoint.config or {}).get("model_type", "no config.json")
    if kind != OmniConfig.model_type:
        raise InputError(
            "not an omni model",
            where=checkpoint.path,
            got=kind,
            expected=f"model_type {OmniConfig.model_type}",
            hint="import LLaVA, Video-LLaVA or Qwen2-Audio with `optmerge omni import` first",
        )
    config: OmniConfig = _loaded(OmniConfig, checkpoint)
    return config


def _loaded(config: Any, checkpoint: Checkpoint) -> Any:
    """Configuration of a checkpoint; anyone may have written it."""
    try:
        return config.from_pretrained(checkpoint.path, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as problem:
        raise CheckpointError(
            "the configuration can't be used", where=checkpoint.path / "config.json", got=problem
        ) from problem


def _trained_towers(adapter: Adapter) -> dict[str, TensorInfo]:
    """Tensors of towers that an adapter holds whole, in PEFT's `modules_to_save`.

    Raises:
        AdapterError: the adapter changes a tower by low rank, or something that no omni model has.
    """
    found = {}
    for name, target in _starting(adapter.targets, TOWERS).items():
        if target.kind != "full" or "full" not in target.parts:
            raise AdapterError(
                "the adapter changes a tower by low rank",
                where=adapter.path,
                got=name,
                expected="projectors in modules_to_save, encoders as they were",
                hint="merge it into its model with PEFT's merge_and_unload, and give the full checkpoint",
            )
        found[name] = replace(target.parts["full"], name=name)
    others = [name for name in adapter.targets if not name.startswith((LANGUAGE, TOWERS))]
    if others:
        raise AdapterError(
            "the adapter changes what no omni model has",
            where=adapter.path,
            got=others[0],
            hint="give an adapter that was trained on an omni model",
        )
    return found


def _starting(tensors: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {name: each for name, each in tensors.items() if name.startswith(start)}
