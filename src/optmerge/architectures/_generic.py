"""Architectures for models of no declared family: a guess by common habits, and the bare checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from optmerge.architectures._architecture import Architecture, Way
from optmerge.architectures._ties import TIED_BY_DEFAULT, Tie

BARE = Architecture(name="bare", way=Way.NAMES)
"""A checkpoint without a config: every tensor is component `other`, with a kind by the shared rules."""

GENERATORS = (
    r"\w*codec\w*|talker|(code|token)2wav|perception|sam\w*|\w*diffusion\w*|depth_?decoder|vocoder|ctc\w*"
    r"|vq\w*"
)
"""Parts that make pictures or sound, and encoders that aren't called one."""

PROJECTORS = (
    r"\w*(projector|connector|merger|resampler|perceiver|abstractor|aligner)\w*|mlp1|qformer|query_tokens|mm_\w+"
    r"|embed_vision|embed_audio|\w*image_newline|(language|vision|visual|image_to_text)_projection|vision_adapter"
    r"|vision_language_adapter|mlp_AR|patch_merge_mlp"
)
"""Parts between a tower and a language model."""

ENDS = (
    r"lm_head|embed_tokens|word_embeddings|wte|wpe|norm|ln_f|embed_in|embed_out|final_layer_?norm|norm_f"
    r"|embeddings"
)
"""What stands before and after the layers of a language model."""

TEXT_ENCODER = re.compile(r"(^|\.)(shared|encoder\.embed_tokens|embeddings\.word_embeddings)\.weight$")
"""Embeddings of a model whose encoder reads text."""

GENERIC = Architecture(
    name="generic",
    way=Way.NAMES,
    components=(
        (rf"(\w+\.){{0,2}}({GENERATORS})\.", "other"),
        (r"(.*\.)?(language_model|text_model|llm)\.", "language"),
        (rf"(.*\.)?({PROJECTORS})(\.|$)", "projector"),
        (r"(.*\.)?video\w*(\.|$)", "video"),
        (r"(.*\.)?(audio|speech|acoustic|semantic_tokenizer)\w*(\.|$)", "audio"),
        (r"(.*\.)?(vision|visual|image|img|vit|vpm|clip|siglip)\w*(\.|$)", "vision"),
        (r"(\w+\.){0,2}(decoder\.)?(?<!encoder\.)(\w*layers?|blocks?|h)\.\d+\.", "language"),
        (r"(model\.)?(altup|per_layer)_\w+\.", "language"),
        (rf"(\w+\.){{0,2}}(?<!encoder\.)({ENDS})\.", "language"),
    ),
)
"""An unknown family, judged by the prefixes that multimodal models share."""

HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")


def fallback(config: Mapping[str, Any], names: Iterable[str], reason: str) -> Architecture:
    """The generic architecture, tied as the config says if it has one embedding and no second head."""
    guess = replace(GENERIC, reason=reason)
    names = tuple(names)
    if any(TEXT_ENCODER.search(name) for name in names):
        encoder = (r"(\w+\.)?(encoder|decoder)\.(layers?|block)\.", "language")
        guess = replace(guess, components=(*guess.components, encoder))
    heads = [name for name in names if name.endswith(HEADS)]
    embeddings = [name for name in names if name.endswith(EMBEDDINGS)]
    if len(heads) > 1 or len(embeddings) != 1:
        return guess
    if not heads:  # not stored; transformers 4 has it beside the language model's layers
        before = "language_model." if embeddings[0].startswith("language_model.model.") else ""
        heads = [f"{before}lm_head.weight"]
    default = config.get("model_type") in TIED_BY_DEFAULT
    return replace(guess, tie=Tie(heads[0], embeddings[0], default=default, text_config="text_config"))
