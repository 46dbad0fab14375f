"""The omni model: a causal language model in which embeddings from towers take the places of placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationMixin,
    PreTrainedModel,
)

from optmerge.errors import InputError
from optmerge.omni.config import OmniConfig
from optmerge.omni.routing import Routes, install_routes
from optmerge.omni.tower import Tower

VALUES = {"image": "pixel_values", "audio": "input_features", "video": "pixel_values_videos"}
"""Modality → name of the model's input that holds its items, in the order of their placeholders, row by row.

They are names that transformers' `generate` drops once the prompt has been read.
"""

MASKS = {"audio": "input_features_mask"}
"""Modality → name of the model's input that tells signal from padding."""


class OmniForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model with a tower for each modality; see `OmniConfig`."""

    config_class = OmniConfig
    config: OmniConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "audio", "video", "text")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config)
        text = config.text_config
        options = {"dtype": config.dtype} if config.dtype is not None else {}
        self.language_model = AutoModelForCausalLM.from_config(text, **options)
        width = self.language_model.get_input_embeddings().embedding_dim
        self.towers = nn.ModuleDict(
            {modality: Tower(tower, width) for modality, tower in config.towers.items()}
        )
        self.routes = Routes()
        if config.routes:
            install_routes(self.language_model, config.routes, self.routes)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's input embeddings."""
        found: nn.Embedding = self.language_model.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's input embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        found: nn.Module = self.language_model.get_output_embeddings()
        return found

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's head."""
        self.language_model.set_output_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Output of the language model on a prompt and its items.

        Args:
            input_ids: token ids (rows, length), with as many placeholders as the items have embeddings.
            attention_mask: (rows, length), 1 for tokens and 0 for padding.
            position_ids: (rows, length).
            past_key_values: cache that an earlier call returned.
            inputs_embeds: embeddings (rows, length, width) in place of `input_ids`; then there are no items.
            labels: token ids (rows, length), -100 where nothing is to be learnt; placeholders never are.
            pixel_values: pictures of all rows, (pictures, 3, height, width).
            input_features: sounds of all rows, (sounds, …), as their tower's kind extracts them.
            input_features_mask: (sounds, steps), for towers that need it.
            pixel_values_videos: videos of all rows, (videos, frames, 3, height, width).
            use_cache: whether to return `past_key_values`.
            logits_to_keep: number of last positions that get logits; 0 for all.
            kwargs: other arguments of the language model.

        Returns:
            The language model's own output, with the loss where there are labels.

        Raises:
            InputError: placeholders and embeddings don't match in number, or a tower is missing.
        """
        items = {"image": pixel_values, "audio": input_features, "video": pixel_values_videos}
        given = {modality: values for modality, values in items.items() if values is not None}
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("the model got neither input_ids nor inputs_embeds")
            places = self._places(input_ids)
            inputs_embeds = self._embed(input_ids, places, given, {"audio": input_features_mask})
            if labels is not None:
                labels = labels.masked_fill(_any(places, labels), -100)
            self.routes.set(places)
        elif given:
            raise InputError(
                "items need places", got="inputs_embeds", hint="give input_ids, or put embeddings in yourself"
            )
        else:
            self.routes.set({})
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`, with placeholders suppressed."""
        settings = kwargs.get("generation_config") or self.generation_config
        never = [*(kwargs.get("suppress_tokens") or settings.suppress_tokens or ()), *self._placeholders()]
        if never:
            kwargs["suppress_tokens"] = never
        return super().generate(*args, **kwargs)

    def _placeholders(self) -> list[int]:
        """Ids of the placeholders that lie within the vocabulary."""
        size = len(self.get_input_embeddings().weight)
        ids = (tower.token_id for tower in self.config.towers.values())
        return [each for each in ids if 0 <= each < size]

    def _places(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Modality → whether its placeholder is there, (rows, length)."""
        towers = self.config.towers.items()
        return {modality: torch.eq(input_ids, tower.token_id) for modality, tower in towers}

    def _embed(
        self,
        input_ids: Tensor,
        places: Mapping[str, Tensor],
        items: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | None],
    ) -> Tensor:
        """Embeddings of words, and of items where placeholders are, (rows, length, width)."""
        for modality in items:
            if modality not in places:
                raise InputError(
                    f"the model takes no {modality}",
                    got=VALUES[modality],
                    expected=", ".join(places) or "text alone",
                )
        # Ids of placeholders may lie outside of the vocabulary, so another id is looked up in their place.
        words = input_ids.masked_fill(_any(places, input_ids), 0)
        embeds: Tensor = self.get_input_embeddings()(words)
        for modality, place in places.items():
            count = int(place.sum())
            if modality not in items and not count:
                continue
            found = self._tower_embeddings(modality, items.get(modality), masks.get(modality))
            if len(found) != count:
                raise InputError(
                    f"placeholders and embeddings of {modality} differ in number",
                    got=f"{count} placeholders, {len(found)} embeddings",
                    hint="make the inputs with OmniProcessor, and cut none of them off",
                )
            embeds = embeds.masked_scatter(place[..., None], found.to(embeds.device, embeds.dtype))
        return embeds

    def _tower_embeddings(self, modality: str, values: Tensor | None, mask: Tensor | None) -> Tensor:
        if values is None:
            return torch.empty(0)
        found: Tensor = self.towers[modality](values, mask)
        return found

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **inputs: Any
    ) -> Any:
        """Repeats every row and its items `expand_size` times, for beams and several answers."""
        items: dict[str, Any] = {}
        for modality, values in VALUES.items():
            if expand_size > 1 and inputs.get(values) is not None:
                order = self._expanded_order(modality, input_ids, inputs, expand_size)
                held = {name: inputs.pop(name, None) for name in (values, MASKS.get(modality, ""))}
                items |= {name: each[order] for name, each in held.items() if each is not None}
        ids, inputs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **inputs
        )
        return ids, {**inputs, **items}

    def _expanded_order(
        self, modality: str, input_ids: Tensor, inputs: Mapping[str, Any], times: int
    ) -> list[int]:
        mask, tower = inputs.get(MASKS.get(modality, "")), self.towers[modality]
        assert isinstance(tower, Tower)
        lengths = tower.lengths(mask, len(inputs[VALUES[modality]]))
        counts = self._places(input_ids)[modality].sum(1).tolist()
        return [item for row in _by_row(counts, lengths) for _ in range(times) for item in row]


def _any(places: Mapping[str, Tensor], like: Tensor) -> Tensor:
    found = torch.zeros_like(like, dtype=torch.bool)
    for place in places.values():
        found = found | place
    return found


def _by_row(counts: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the items of each row, from its placeholders and the number of embeddings of each item."""
    rows, item = [], 0
    for count in counts:
        row = []
        while count > 0 and item < len(lengths):
            row.append(item)
            count -= lengths[item]
            item += 1
        rows.append(row)
    return rows


for _auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(OmniConfig, OmniForConditionalGeneration, exist_ok=True)
