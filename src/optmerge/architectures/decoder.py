"""Text-only decoders: Llama and those that kept its names."""

from __future__ import annotations

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._renames import EXPERT_RENAMES, TEXT_COMPONENTS, TEXT_RENAMES
from optmerge.architectures._ties import TIED_BY_DEFAULT, Tie


def _decoder(name: str) -> Architecture:
    return Architecture(
        name=name,
        renames=(*TEXT_RENAMES, *EXPERT_RENAMES),
        components=TEXT_COMPONENTS,
        tie=Tie("lm_head.weight", "model.embed_tokens.weight", default=name in TIED_BY_DEFAULT),
    )


_DENSE = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("phi3", "olmo2", "granite", "smollm3", "starcoder2", "cohere2"),
)
_SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe")

ARCHITECTURES = tuple(_decoder(name) for name in (*_DENSE, *_SPARSE))
