"""LLaVA: CLIP or SigLIP, a projector of two layers, a language model like Llama."""

from __future__ import annotations

from typing import Any

from optmerge.omni.config import TowerConfig
from optmerge.omni.forms._form import Form, padding_left
from optmerge.omni.processor import OmniProcessor

_CLASS_TOKENS = {"clip": 1, "siglip": 0}
"""Kind of tower → number of special tokens that its encoder puts before the patches."""


def _strategy(tower: TowerConfig) -> str:
    return "default" if _CLASS_TOKENS[tower.kind] and not tower.special else "full"


def _check(tower: TowerConfig) -> None:
    if tower.kind not in _CLASS_TOKENS:
        raise FORM.misfit("its tower is of another kind", tower.kind, ", ".join(_CLASS_TOKENS))
    if tower.kind == "siglip" and tower.layer is None:
        raise FORM.misfit(
            "its tower takes SigLIP's states after the last norm", "layer None", "a layer's number"
        )
    if not isinstance(tower.encoder.patch_size, int) or not isinstance(tower.encoder.image_size, int):
        size = f"{tower.encoder.image_size}, patches {tower.encoder.patch_size}"
        raise FORM.misfit("its pictures or patches are no squares", size, "one number for each")


def _config(text: Any, tower: TowerConfig) -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=tower.encoder,
        text_config=text,
        image_token_index=tower.token_id,
        image_seq_length=tower.tokens,
        projector_hidden_act=tower.projector_act,
        vision_feature_select_strategy=_strategy(tower),
        vision_feature_layer=-1 if tower.layer is None else tower.layer,
        multimodal_projector_bias=tower.projector_bias,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _processor(own: OmniProcessor) -> Any:
    from transformers import LlavaProcessor

    tower = own.towers["image"]
    return LlavaProcessor(
        own.extractors["image"],
        padding_left(own.tokenizer),
        patch_size=tower.encoder.patch_size,
        vision_feature_select_strategy=_strategy(tower),
        chat_template=own.chat_template,
        image_token=tower.token,
        num_additional_image_tokens=_CLASS_TOKENS[tower.kind],
    )


FORM = Form(
    name="llava",
    model_class="LlavaForConditionalGeneration",
    modality="image",
    encoder="vision_tower",
    projector=("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
    ties=True,
    check=_check,
    config=_config,
    processor=_processor,
)
