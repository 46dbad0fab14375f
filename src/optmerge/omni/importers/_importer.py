"""What an importer knows of a family, and the conversion itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from optmerge.errors import CheckpointError, InputError
from optmerge.omni.config import OmniConfig, TowerConfig
from optmerge.omni.model import OmniForConditionalGeneration


@dataclass(frozen=True)
class Importer:
    """How the checkpoints of a family become omni experts.

    Args:
        model_type: of its configurations.
        model_class: of transformers.
        encoders: modality → module of the encoder.
        projector: the projector's linear layers, in order; all towers get a copy.
        tower: (configuration, modality) → what `TowerConfig` takes, but for the placeholder.
        extractor: (folder, tower) → the extractor its files describe.
    """

    model_type: str
    model_class: str
    encoders: Mapping[str, str]
    projector: tuple[str, ...]
    tower: Callable[[Any, str], dict[str, Any]]
    extractor: Callable[[Path, TowerConfig], Any]

    def choose(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        """The modalities asked for, all by default.

        Raises:
            InputError: the family has no tower for one.
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
        """Where a tensor goes: nowhere, to one place, or to every tower.

        Args:
            name: in the original class.
            modalities: of the towers asked for.
            prefix: of the language model without its head.
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


def convert(original: Any, tokens: Mapping[str, str]) -> OmniForConditionalGeneration:
    """An omni expert with the weights of a loaded model.

    Args:
        original: of a class that an importer reads.
        tokens: modality → placeholder, of the towers wanted.
    """
    from optmerge.omni.importers import importers

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
