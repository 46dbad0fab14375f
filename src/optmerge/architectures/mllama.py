"""Llama 3.2 Vision. Its embedding has more rows than its head, so transformers never ties them."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._renames import LANGUAGE, composed_renames

ARCHITECTURES = (
    Architecture(
        name="mllama",
        renames=composed_renames("vision_model", "multi_modal_projector"),
        components=(
            *LANGUAGE,
            (r"model\.vision_model\.", "vision"),
            (r"model\.multi_modal_projector\.", "projector"),
        ),
    ),
)
