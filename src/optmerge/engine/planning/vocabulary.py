"""Refusing to merge models whose token ids mean different tokens."""

from __future__ import annotations

from typing import Any

from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.paths import member
from optmerge.errors import CheckpointError

TOKENIZER = "tokenizer.json"


def check_vocabulary(base: Checkpoint, expert: Checkpoint, name: str) -> None:
    """Compares the two `tokenizer.json`, where both have one.

    Raises:
        CheckpointError: one id stands for two different tokens.
    """
    ours, theirs = _tokens(base), _tokens(expert)
    if ours is None or theirs is None or ours == theirs:
        return
    for identifier, token in theirs.items():
        if ours.get(identifier, token) != token:
            raise CheckpointError(
                f"expert {name!r} has another vocabulary than the base",
                where=expert.path / TOKENIZER,
                got=f"token {identifier} is {token!r}",
                expected=repr(ours[identifier]),
                hint="merge only models that share a tokenizer, since embeddings belong to tokens; "
                "if you know that this one doesn't matter, remove the expert's tokenizer.json",
            )


def _tokens(checkpoint: Checkpoint) -> dict[int, str] | None:
    """Token by id; None where there is no tokenizer.json."""
    folder = checkpoint.folder
    if folder is None or not (folder / TOKENIZER).exists():
        return None
    path = member(folder, TOKENIZER, folder)
    try:
        return _by_id(read_object(path, "tokenizer"))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise CheckpointError(
            "the tokenizer can't be understood",
            where=path,
            expected="model.vocab and added_tokens, as the tokenizers library writes them",
            hint="save the tokenizer again with transformers",
        ) from None


def _by_id(data: dict[str, Any]) -> dict[int, str]:
    vocabulary: Any = (data.get("model") or {}).get("vocab") or {}
    pairs = (
        ((index, piece[0]) for index, piece in enumerate(vocabulary))  # unigram: a list of [token, score]
        if isinstance(vocabulary, list)
        else ((index, token) for token, index in vocabulary.items())
    )
    return dict(pairs) | {each["id"]: each["content"] for each in data.get("added_tokens") or []}
