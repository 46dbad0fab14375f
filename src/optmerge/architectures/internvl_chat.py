"""InternVL as first published, with its own code: transformers has no class, so names stay as they are."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._roles import KindRule
from optmerge.architectures._ties import Tie

ARCHITECTURES = (
    Architecture(
        name="internvl_chat",
        classes=("InternVLChatModel",),
        components=(
            (r"language_model\.", "language"),
            (r"vision_model\.", "vision"),
            (r"mlp1\.", "projector"),
        ),
        kinds=(KindRule("head", r"^language_model\.output\.weight$"),),  # InternLM2's word for it
        tie=Tie(
            "language_model.lm_head.weight",
            "language_model.model.embed_tokens.weight",
            text_config="llm_config",
        ),
    ),
)
