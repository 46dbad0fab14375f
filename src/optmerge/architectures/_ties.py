"""Which configs tie the output head to the input embedding, as transformers 5 reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIED_BY_DEFAULT = frozenset(
    (
        *("bloom", "cohere", "cohere2", "ernie4_5", "falcon", "gpt2", "mpt", "opt", "smollm3", "starcoder2"),
        *("gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text"),
        "qwen2_5_omni_text",
    )
)
"""`model_type`s of text models whose config class ties by default; files leave defaults out."""


@dataclass(frozen=True)
class Tie:
    """Two names of one parameter, if the config says so.

    Args:
        alias: canonical name of the parameter that need not be stored.
        source: canonical name of the parameter that holds the values.
        default: whether the config class ties if the file doesn't say.
        text_config: key of the nested config whose flag counts, too: before transformers 5 the flag was saved
            there. None for classes that no longer look there.
    """

    alias: str
    source: str
    default: bool = False
    text_config: str | None = None

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether this config ties the two."""
        if config.get("tie_word_embeddings", self.default):
            return True
        nested = (self.text_config and config.get(self.text_config)) or {}
        return bool(nested.get("tie_word_embeddings", nested.get("model_type") in TIED_BY_DEFAULT))
