"""GPT-NeoX and Pythia: a decoder with names of its own."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._roles import KindRule
from optmerge.architectures._ties import Tie

ARCHITECTURES = (
    Architecture(
        name="gpt_neox",
        renames=(
            (r"^embed_out\.", "lm_head."),  # the head's name in files
            (r"^(embed_in|layers|final_layer_norm)\.", r"gpt_neox.\1."),  # saved without the head
        ),
        components=((r"(gpt_neox|lm_head)\.", "language"),),
        kinds=(KindRule("embedding", r"\.embed_in\.weight$"),),
        tie=Tie("lm_head.weight", "gpt_neox.embed_in.weight"),
    ),
)
