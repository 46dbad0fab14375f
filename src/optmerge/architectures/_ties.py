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

LANGUAGE_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys of nested configs that hold the language model's."""


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


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with head and embedding apart, said wherever some version of transformers looks.

    That is at the top, in every nested config that has the flag set, and in that of the language model.
    """
    changed = {
        key: untied(value)
        if isinstance(value, dict) and (key in LANGUAGE_CONFIGS or _ties_somewhere(value))
        else value
        for key, value in config.items()
    }
    return {**changed, "tie_word_embeddings": False}


def with_vocabulary_size(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The config with the number of rows of the embedding, said where it was, or where the class looks."""
    changed = {
        key: with_vocabulary_size(value, rows)
        if isinstance(value, dict) and key in LANGUAGE_CONFIGS
        else value
        for key, value in config.items()
    }
    inside = any(isinstance(config.get(key), dict) for key in LANGUAGE_CONFIGS)
    return changed if inside and "vocab_size" not in config else {**changed, "vocab_size": rows}


def _ties_somewhere(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings")) or any(
        isinstance(value, dict) and _ties_somewhere(value) for value in config.values()
    )
