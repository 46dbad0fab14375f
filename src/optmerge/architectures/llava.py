"""LLaVA and the models built on its plan: a vision tower, a projector and any language model."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._renames import LANGUAGE, composed_renames
from optmerge.architectures._ties import Tie


def _llava(name: str, *, tied: bool = False, text_config: str | None = None) -> Architecture:
    return Architecture(
        name=name,
        renames=composed_renames(
            "vision_tower", "image_tower", "video_tower", "multi_modal_projector", "image_newline"
        ),
        components=(
            *LANGUAGE,
            (r"model\.(multi_modal_projector|image_newline)(\.|$)", "projector"),
            (r"model\.(vision|image)_tower\.", "vision"),
            (r"model\.video_tower\.", "video"),
        ),
        # Gemma 3's projector multiplies from the right: x @ W.
        transposed=(r"\.mm_input_projection_weight$",),
        tie=Tie("lm_head.weight", "model.language_model.embed_tokens.weight", tied, text_config),
    )


ARCHITECTURES = (
    _llava("llava", text_config="text_config"),
    _llava("llava_next"),
    _llava("llava_onevision", text_config="text_config"),
    _llava("video_llava"),
    _llava("vipllava"),
    _llava("aya_vision", tied=True),
    _llava("mistral3", tied=True),
    _llava("paligemma", tied=True),
    _llava("gemma3", tied=True),
    _llava("internvl", tied=True),
)
