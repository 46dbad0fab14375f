"""GPT-2, whose `Conv1D` layers are matrices stored (in, out)."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._ties import Tie

ARCHITECTURES = (
    Architecture(
        name="gpt2",
        renames=((r"^(h|wte|wpe|ln_f)\.", r"transformer.\1."),),  # saved without the head, as on the hub
        components=((r"(transformer|lm_head)\.", "language"),),
        transposed=(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$",),
        tie=Tie("lm_head.weight", "transformer.wte.weight", default=True),
    ),
)
