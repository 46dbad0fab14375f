"""What an importer declares of a family, the registry of importers, and the conversion itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from optmerge.errors import CheckpointError, InputError
from optmerge.omni.config import OmniConfig, TowerConfig
from optmerge.omni.model import OmniForConditionalGeneration
from optmerge.registry import Registry


@dataclass(frozen=True)
class Importer:
    """How the checkpoints of a family become omni experts.

    Args:
        model_type: `model_type` of the family's configurations.
        model_class: name of the family's class in transformers.
        encoders: modality → module of the encoder.
        projector: modules of the projector's linear layers, in order; every tower gets a copy of them.
        tower: (configuration, modality) → arguments of `TowerConfig`, the placeholder left out.
        extractor: (folder, tower) → the extractor that the checkpoint's files describe.
    """

    model_type: str
    model_class: str
    encoders: Mapping[str, str]
    projector: tuple[str, ...]
    tower: Callable[[Any, str], dict[str, Any]]
    extractor: Callable[[Path, TowerConfig], Any]

    def choose(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        """The modalities asked for; all of the family's by default.

        Raises:
            InputError: the family has no tower for one of them.
        """
        for modality in modalities or ():
            if modality not in self.encoders:
                raise InputError(
                    f"{self.model_type} has no {modality} tower", expected=", ".join(self.encoders)
                )
        return tuple(modalities or self.encoders)

    @staticmethod
    def token_id(config: Any, modality: str) -> int:
        """Id of a modality's placeholder."""
        found: int = getattr(config, f"{modality}_token_id")
        return found

    def renamed(self, name: str, modalities: Sequence[str], prefix: str) -> list[str]:
        """Names of a tensor in the omni model: none, one, or one for every tower.

        Args:
            name: name of the tensor in the original class.
            modalities: modalities of the towers asked for.
            prefix: `base_model_prefix` of the language model.

        Raises:
            CheckpointError: the tensor belongs to no part of an omni model.
        """
        moves = {"model.language_model": [f"language_model.{prefix}"], "lm_head": ["language_model.lm_head"]}
        for modality, module in self.encoders.items():
            moves[module] = [f"towers.{modality}.encoder"] if modality in modalities else []
        for number, module in enumerate(self.projector):
            moves[module] = [f"towers.{modality}.projector.layers.{number}" for modality in modalities]
        for module, places in moves.items():
            if name.startswith(f"{module}."):
                return [place + name[len(module) :] for place in places]
        raise CheckpointError(
            "the model holds something that no omni model has",
            got=name,
            hint="it isn't of the published form; convert it by hand",
        )


def _declared(module: ModuleType) -> list[tuple[str, Importer]]:
    return [(module.IMPORTER.model_type, module.IMPORTER)]


_IMPORTERS = Registry("importer", "optmerge.omni.importers", "optmerge.importers", collect=_declared)


def importers() -> Mapping[str, Importer]:
    """Every importer by the `model_type` it reads, in alphabetical order.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return _IMPORTERS.all()


def convert(original: Any, tokens: Mapping[str, str]) -> OmniForConditionalGeneration:
    """An omni expert with the weights of a loaded model.

    Args:
        original: model of a class that an importer reads.
        tokens: modality → placeholder, for the towers asked for.
    """
    importer, config = importers()[original.config.model_type], original.config
    text = copy.deepcopy(config.text_config)
    text.tie_word_embeddings = (
        original.get_output_embeddings().weight is original.get_input_embeddings().weight
    )
    towers = {
        modality: TowerConfig(
            **importer.tower(config, modality), token=token, token_id=importer.token_id(config, modality)
        )
        for modality, token in tokens.items()
    }
    expert = OmniForConditionalGeneration(OmniConfig(text_config=text, towers=towers))
    expert.to(original.dtype)
    prefix = expert.language_model.base_model_prefix
    state: dict[str, Tensor] = {}
    for name, value in original.state_dict().items():
        state |= dict.fromkeys(importer.renamed(name, list(tokens), prefix), value)
    expert.load_state_dict(state)
    if original.generation_config is not None:
        expert.generation_config = copy.deepcopy(original.generation_config)
    expert.eval()
    return expert
