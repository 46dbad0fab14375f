"""Qwen2-Audio: a Whisper-like tower, one linear layer, Qwen2. Its class never ties."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._renames import LANGUAGE, composed_renames

ARCHITECTURES = (
    Architecture(
        name="qwen2_audio",
        renames=composed_renames("audio_tower", "multi_modal_projector"),
        components=(
            *LANGUAGE,
            (r"model\.audio_tower\.", "audio"),
            (r"model\.multi_modal_projector\.", "projector"),
        ),
    ),
)
