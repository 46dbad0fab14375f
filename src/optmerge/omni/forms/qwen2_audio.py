"""Qwen2-Audio: its encoder, a projector of one layer, a language model like Qwen2."""

from __future__ import annotations

from typing import Any

from optmerge.omni.config import TowerConfig
from optmerge.omni.forms._form import Form, padding_left
from optmerge.omni.processor import OmniProcessor


def _check(tower: TowerConfig) -> None:
    if tower.kind != "qwen2_audio":
        raise FORM.misfit("its tower is of another kind", tower.kind, "qwen2_audio")
    if tower.layer is not None:
        raise FORM.misfit("its tower takes another layer", f"layer {tower.layer}", "the encoder's output")
    if not tower.projector_bias:
        raise FORM.misfit("its projector is another", "projector_bias: false", "a bias")


def _config(text: Any, tower: TowerConfig) -> Any:
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(audio_config=tower.encoder, text_config=text, audio_token_index=tower.token_id)


def _processor(own: OmniProcessor) -> Any:
    from transformers import Qwen2AudioProcessor

    tower = own.towers["audio"]
    return Qwen2AudioProcessor(
        own.extractors["audio"],
        padding_left(own.tokenizer),
        chat_template=own.chat_template,
        audio_token=tower.token,
    )


FORM = Form(
    name="qwen2_audio",
    model_class="Qwen2AudioForConditionalGeneration",
    modality="audio",
    encoder="audio_tower",
    projector=("multi_modal_projector.linear",),
    ties=False,
    check=_check,
    config=_config,
    processor=_processor,
)
