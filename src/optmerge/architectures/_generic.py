"""Architectures for models of no declared family: a guess by common habits, and the bare checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from optmerge.architectures._architecture import Architecture
from optmerge.architectures._ties import TIED_BY_DEFAULT, Tie

BARE = Architecture(name="bare", generic=True)
"""A checkpoint without a config: every tensor is component `other`, with a kind by the shared rules."""

GENERIC = Architecture(
    name="generic",
    generic=True,
    components=(
        (r"(.*\.)?(language_model|text_model|llm)\.", "language"),
        (
            r"(.*\.)?(\w*(projector|connector|merger|resampler|perceiver|abstractor|aligner)\w*|mlp1)(\.|$)",
            "projector",
        ),
        (r"(.*\.)?(qformer|mm_\w+|embed_vision|embed_audio|\w*image_newline)(\.|$)", "projector"),
        (r"(.*\.)?video\w*(\.|$)", "video"),
        (r"(.*\.)?(audio|speech|acoustic)\w*(\.|$)", "audio"),
        (r"(.*\.)?(vision|visual|image|img|vit|vpm|clip|siglip)\w*(\.|$)", "vision"),
        (r"(.*\.)?(lm_head|embed_tokens|word_embeddings|wte|wpe|layers|h|norm|ln_f)\.", "language"),
    ),
)
"""An unknown family, judged by the prefixes that multimodal models share."""

HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")


def fallback(config: Mapping[str, Any], names: Iterable[str]) -> Architecture:
    """The generic architecture, tied as the config says if it has one embedding and no second head."""
    names = tuple(names)
    heads = [name for name in names if name.endswith(HEADS)]
    embeddings = [name for name in names if name.endswith(EMBEDDINGS)]
    if len(heads) > 1 or len(embeddings) != 1:
        return GENERIC
    if not heads:  # not stored; transformers 4 has it beside the language model's layers
        before = "language_model." if embeddings[0].startswith("language_model.model.") else ""
        heads = [f"{before}lm_head.weight"]
    default = config.get("model_type") in TIED_BY_DEFAULT
    return replace(GENERIC, tie=Tie(heads[0], embeddings[0], default=default, text_config="text_config"))
