"""OptMerge's own omni models: a whole causal language model beside towers of encoder and projector."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._ties import Tie

ARCHITECTURES = (
    Architecture(
        name="optmerge_omni",
        components=(
            (r"language_model\.", "language"),
            (r"towers\.\w+\.projector\.", "projector"),
            (r"towers\.image\.", "vision"),
            (r"towers\.audio\.", "audio"),
            (r"towers\.video\.", "video"),
        ),
        tie=Tie(
            "language_model.lm_head.weight",
            "language_model.model.embed_tokens.weight",
            text_config="text_config",
        ),
        composed=True,
        support="optmerge.omni.support",
    ),
)
