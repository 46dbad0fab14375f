"""Idefics3 and SmolVLM: one layout since their first release."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._ties import Tie


def _idefics3(name: str) -> Architecture:
    return Architecture(
        name=name,
        renames=((r"^(text_model|vision_model|connector)\.", r"model.\1."),),  # saved without the head
        components=(
            (r"(model\.text_model|lm_head)\.", "language"),
            (r"model\.vision_model\.", "vision"),
            (r"model\.connector\.", "projector"),
        ),
        tie=Tie("lm_head.weight", "model.text_model.embed_tokens.weight"),
    )


ARCHITECTURES = (_idefics3("idefics3"), _idefics3("smolvlm"))
