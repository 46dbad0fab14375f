"""Tokenizers as files: the token of each id, and the same files with more added tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.output_files import disk_errors
from optmerge.checkpoints.paths import member
from optmerge.errors import CheckpointError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OTHER_FORMS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Files of tokenizers that have no tokenizer.json."""

OLD_LIST = "additional_special_tokens"

MOST_ROWS = 1 << 24
"""More tokens than any model has; ids beyond are a mistake."""


@dataclass(frozen=True)
class Tokenizer:
    """A `tokenizer.json`.

    Args:
        path: the file.
        tokens: token by id, added ones included.
        added: entries of `added_tokens`, by token: id, flags, whether the token is special.
        kind: class of its model, as in `BPE` or `Unigram`.
        next_id: id that the tokenizers library gives the next added token.
    """

    path: Path
    tokens: Mapping[int, str]
    added: Mapping[str, Mapping[str, Any]]
    kind: str
    next_id: int

    @property
    def ids(self) -> dict[str, int]:
        """Id by token."""
        return {token: index for index, token in self.tokens.items()}


def read_tokenizer(folder: Path | None) -> Tokenizer | None:
    """The tokenizer of a model's folder; None where there is no `tokenizer.json`.

    Raises:
        CheckpointError: the file can't be understood.
    """
    if folder is None or not (folder / TOKENIZER).exists():
        return None
    path = member(folder, TOKENIZER, folder)
    data = read_object(path, "tokenizer")
    try:
        return _understood(path, data)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            "the tokenizer can't be understood",
            where=path,
            expected="model.vocab and added_tokens, as the tokenizers library writes them",
            hint="save the tokenizer again with transformers",
        ) from None


def _understood(path: Path, data: Mapping[str, Any]) -> Tokenizer:
    model: Any = data.get("model") or {}
    vocabulary = model.get("vocab") or {}
    pairs = (
        ((index, piece[0]) for index, piece in enumerate(vocabulary))  # unigram: a list of [token, score]
        if isinstance(vocabulary, list)
        else ((index, token) for token, index in vocabulary.items())
    )
    added = {each["content"]: each for each in data.get("added_tokens") or []}
    tokens = dict(pairs) | {each["id"]: token for token, each in added.items()}
    if not all(type(index) is int and type(token) is str for index, token in tokens.items()):
        raise TypeError
    if any(not 0 <= index < MOST_ROWS for index in tokens):
        raise ValueError
    last = max((each["id"] for each in added.values()), default=-1)
    return Tokenizer(path, tokens, added, str(model.get("type")), max(last + 1, len(vocabulary)))


def other_form(folder: Path | None) -> str:
    """What a folder without a `tokenizer.json` has instead, for a message."""
    found = [name for name in OTHER_FORMS if folder is not None and (folder / name).exists()]
    return f"{found[0]} alone" if found else "no tokenizer"


def add_tokens(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Appends added tokens to the tokenizer files of a folder, in whichever of them such tokens stand.

    Args:
        folder: holds `tokenizer.json`, and perhaps `tokenizer_config.json`, `added_tokens.json` and
            `special_tokens_map.json`; each is written anew.
        entries: as in `added_tokens`, with the ids that they have in this tokenizer.
    """
    special = [entry["content"] for entry in entries if entry.get("special")]

    def tokenizer(data: dict[str, Any]) -> None:
        data["added_tokens"] = [*(data.get("added_tokens") or []), *map(dict, entries)]

    def settings(data: dict[str, Any]) -> None:
        if isinstance(data.get("added_tokens_decoder"), dict):
            data["added_tokens_decoder"] |= {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
                for entry in entries
            }
        _append(data, special)

    def added(data: dict[str, Any]) -> None:
        data |= {entry["content"]: entry["id"] for entry in entries}

    def specials(data: dict[str, Any]) -> None:
        _append(data, special)

    for name, change in (
        (TOKENIZER, tokenizer),
        (TOKENIZER_CONFIG, settings),
        ("added_tokens.json", added),
        ("special_tokens_map.json", specials),
    ):
        path = folder / name
        if path.is_file():
            data = read_object(path, name)
            change(data)
            with disk_errors(path):
                path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _append(data: dict[str, Any], tokens: Sequence[str]) -> None:
    """Adds special tokens to the list of them, which all versions read by its old name."""
    key = "extra_special_tokens" if isinstance(data.get("extra_special_tokens"), list) else OLD_LIST
    if tokens and isinstance(data.get(key), list | None):
        data[key] = [*(data.get(key) or []), *tokens]
