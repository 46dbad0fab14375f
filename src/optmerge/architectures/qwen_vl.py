"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense and MoE), and the thinker of Qwen2.5-Omni.

save_pretrained writes the old names (`visual.`, `model.layers.`) for the 2 and 2.5 generations only.
"""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._renames import QWEN_VL_COMPONENTS, QWEN_VL_RENAMES
from optmerge.architectures._roles import KindRule
from optmerge.architectures._ties import Tie


def _qwen_vl(name: str, text_config: str | None) -> Architecture:
    return Architecture(
        name=name,
        renames=QWEN_VL_RENAMES,
        components=QWEN_VL_COMPONENTS,
        kinds=(KindRule("embedding", r"\.audio_bos_eos_token\.weight$"),),
        tie=Tie("lm_head.weight", "model.language_model.embed_tokens.weight", text_config=text_config),
    )


ARCHITECTURES = (
    _qwen_vl("qwen2_vl", "text_config"),
    _qwen_vl("qwen2_5_vl", "text_config"),
    _qwen_vl("qwen3_vl", None),
    _qwen_vl("qwen3_vl_moe", None),
    _qwen_vl("qwen2_5_omni_thinker", None),
)
