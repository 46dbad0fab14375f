"""Tokens of the base and the experts: compared, or brought together row by row.

An embedding and a head have a row for each token. Under `vocabulary: base` and `union` rows of different
models meet by token, not by id. A model is read through a list that says which of its rows each row of the
output is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optmerge.checkpoints.tokenizer_files import Tokenizer, other_form, read_tokenizer
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, Base, Inputs, TokenRows, shape_of
from optmerge.errors import AdapterError, CheckpointError, RecipeError
from optmerge.recipe import BASE, Recipe

LACKS = -1
"""In place of a row: the model has no such token."""

_WAY_OUT = (
    "to match rows by their tokens, write in the recipe: vocabulary: union; or, to keep the base's: base"
)


def check_vocabulary(base: Path | None, expert: Path | None, name: str) -> None:
    """Refuses to merge models whose token ids mean different tokens, where both have a `tokenizer.json`.

    Args:
        base: folder of the base; None where it has none.
        expert: folder of the expert.
        name: of the expert.

    Raises:
        CheckpointError: one id stands for two different tokens, or a tokenizer can't be understood.
    """
    ours, theirs = read_tokenizer(base), read_tokenizer(expert)
    if ours is not None and theirs is not None:
        _refuse_other_meaning(ours.tokens, theirs, f"expert {name!r} has another vocabulary than the base")


def check_strict(recipe: Recipe, inputs: Inputs) -> tuple[str, ...]:
    """Refuses models that disagree about an id; returns what to say of tokens that the output will lack.

    Raises:
        CheckpointError: one id stands for two different tokens, or a tokenizer can't be understood.
    """
    ours = read_tokenizer(inputs.base.checkpoint.folder)
    tokenizers = {expert.name: read_tokenizer(expert.folder) for expert in inputs.experts}
    if ours is None:
        return ()
    met: dict[int, str] = dict(ours.tokens)
    donor = recipe.side_files.donor
    kept = ours if donor == BASE else tokenizers.get(donor) or ours
    notes = []
    for name, theirs in tokenizers.items():
        if theirs is None or theirs.tokens == ours.tokens:
            continue
        _refuse_other_meaning(ours.tokens, theirs, f"expert {name!r} has another vocabulary than the base")
        _refuse_other_meaning(
            met, theirs, f"expert {name!r} has another vocabulary than the experts before it"
        )
        met |= theirs.tokens
        held = set(kept.tokens.values())
        lost = [token for _, token in sorted(theirs.tokens.items()) if token not in held]
        if lost:
            notes.append(
                f"expert {name!r} has {_some(lost)} that the output's tokenizer lacks; {_WAY_OUT}",
            )
    return tuple(notes)


def _refuse_other_meaning(known: Mapping[int, str], theirs: Tokenizer, what: str) -> None:
    for index, token in theirs.tokens.items():
        if known.get(index, token) != token:
            raise CheckpointError(
                what,
                where=theirs.path,
                got=f"token {index} is {token!r}",
                expected=repr(known[index]),
                hint=f"{_WAY_OUT}; if you know that this one doesn't matter, remove its tokenizer.json",
            )


def token_tensors(base: Base) -> frozenset[str]:
    """The base's tensors that have a row for each token: embedding, head, and the head's bias.

    Raises:
        RecipeError: the base has no config, or no embedding.
    """
    roles = {name: base.architecture.role(name, info.shape) for name, info in base.checkpoint.tensors.items()}
    embeddings = [
        info
        for name, info in base.checkpoint.tensors.items()
        if (roles[name].component, roles[name].kind) == ("language", "embedding") and len(info.shape) == 2
    ]
    if not embeddings:
        raise RecipeError(
            "the base has no embedding of tokens that is known",
            where="vocabulary",
            got=base.checkpoint.ref,
            hint="leave `vocabulary` out, and give experts that share the base's tokenizer",
        )
    rows = max(info.shape[0] for info in embeddings)
    heads = {name.rpartition(".")[0] for name, role in roles.items() if role.kind == "head"}
    return frozenset(
        name
        for name, role in roles.items()
        if role.component == "language"
        and base.info(name).shape[:1] == (rows,)
        and (role.kind in ("embedding", "head") or name.rpartition(".")[0] in heads)
    )


def with_token_rows(recipe: Recipe, inputs: Inputs, tensors: frozenset[str]) -> Inputs:
    """The inputs with the output's vocabulary; as they are where all models have the base's.

    Args:
        recipe: `vocabulary` is `base` or `union`.
        inputs: opened and matched.
        tensors: as `token_tensors` finds them.

    Raises:
        CheckpointError: a tokenizer is missing, can't be understood, or doesn't fit its model's rows.
    """
    base = inputs.base
    size = base.info(min(tensors)).shape[0]
    ours = _required(read_tokenizer(base.checkpoint.folder), base.checkpoint.folder, "the base")
    _refuse_beyond(ours, size, "the base", ours.ids)
    known = ours.ids
    found = {expert.name: read_tokenizer(expert.folder) for expert in inputs.experts}
    new = _new_tokens(recipe, found, known)
    ids = {token: ours.next_id + place for place, token in enumerate(new)}
    _refuse_taken(ids, base.checkpoint.config or {}, base.checkpoint.path)
    rows = _rows(size, max(ours.tokens, default=-1) + 1, ours.next_id + len(new))
    own = np.minimum(np.arange(rows), size - 1)  # a padding row that is added is a copy of the last one
    own[list(ids.values())] = LACKS
    meant = dict(ours.tokens) | {index: token for token, index in ids.items()}
    maps, notes = {}, _counts(new, ids, found, ours)
    same = not new
    for expert in inputs.experts:
        own_length = _length(expert, tensors)
        length = size if own_length is None else own_length
        theirs = found[expert.name]
        if theirs is None and length != size:
            theirs = _required(theirs, expert.folder, f"expert {expert.name!r}")
        theirs = theirs or ours
        _refuse_beyond(theirs, length, f"expert {expert.name!r}", known.keys() | new.keys())
        mapped = _mapped(meant, theirs, rows, min(size, length))
        if length != rows or not np.array_equal(mapped, np.arange(rows)):
            maps[expert.name] = mapped
            same = same and own_length is None
        _refuse_unknown_start(expert, tensors, mapped[list(ids.values())], size)
    if same:
        return replace(inputs, notes=notes)
    named = np.isin(np.arange(rows), list(meant))
    entries = tuple({**new[token], "id": index} for token, index in ids.items())
    return replace(
        inputs,
        base=replace(base, checkpoint=_resized(base, tensors, rows)),
        notes=notes,
        tokens=TokenRows(tensors, base.checkpoint, own, maps, named, entries, recipe.vocabulary.unknown),
    )


def _refuse_unknown_start(
    expert: AnyExpert, tensors: frozenset[str], rows: NDArray[np.int64], size: int
) -> None:
    """Refuses an adapter of rows for new tokens beyond the base's that doesn't say what they were."""
    if not isinstance(expert, AdapterExpert) or not (rows >= size).any():
        return
    for name in sorted(tensors):
        target = expert.adapter.targets[expert.tensors[name].target] if expert.changes(name) else None
        if target is not None and target.kind != "full" and "full" not in target.parts:
            raise AdapterError(
                f"adapter {expert.name!r} changes rows of new tokens, and doesn't hold those rows",
                where=expert.adapter.file,
                got=f"factors for {target.name} of {target.shape[0]} rows",
                expected=f"the resized embedding beside them, since the base has {size} rows",
                hint="save it again with PEFT's save_pretrained(…, save_embedding_layers=True)",
            )


def _required(tokenizer: Tokenizer | None, folder: Path | None, who: str) -> Tokenizer:
    if tokenizer is None:
        raise CheckpointError(
            f"{who} has no tokenizer.json, by which rows could be matched",
            where=folder,
            got=other_form(folder),
            hint="load its tokenizer with AutoTokenizer, which converts it, and save it into that folder",
        )
    return tokenizer


def _refuse_beyond(tokenizer: Tokenizer, rows: int, who: str, used: Collection[str]) -> None:
    """Refuses a token of the output for which a model has an id and no row."""
    beyond = [(index, token) for index, token in tokenizer.tokens.items() if index >= rows and token in used]
    if beyond:
        index, token = min(beyond)
        raise CheckpointError(
            f"the tokenizer of {who} has a token without a row in the embedding",
            where=tokenizer.path,
            got=f"{token!r} is token {index}",
            expected=f"ids below {rows}",
            hint="give the tokenizer that the model was trained with, or resize the embeddings to it; or, "
            "if the token is an expert's alone, write in the recipe: vocabulary: base",
        )


def _new_tokens(
    recipe: Recipe, found: Mapping[str, Tokenizer | None], known: Mapping[str, int]
) -> dict[str, Mapping[str, Any]]:
    """Tokens that the base lacks, with their entries, in the order of the experts and their ids."""
    new: dict[str, Mapping[str, Any]] = {}
    if recipe.vocabulary.tokens != "union":
        return new
    for name, theirs in found.items():
        for _, token in sorted(theirs.tokens.items() if theirs is not None else ()):
            if token in known or token in new:
                continue
            assert theirs is not None
            if token not in theirs.added:
                raise CheckpointError(
                    f"expert {name!r} has tokens of its own that aren't added tokens",
                    where=theirs.path,
                    got=f"{token!r} in the vocabulary of its {theirs.kind} model",
                    expected="the base's vocabulary, and added tokens",
                    hint="two tokenizers' rules of splitting can't be united; "
                    "to keep the base's, write in the recipe: vocabulary: base",
                )
            new[token] = theirs.added[token]
    return new


def _refuse_taken(ids: Mapping[str, int], config: Mapping[str, Any], where: Path) -> None:
    """Refuses a new token at an id that the config uses for something that the tokenizer doesn't know."""
    taken = {index: token for token, index in ids.items()}
    for key, value in _config_ids(config):
        if value in taken:
            raise CheckpointError(
                f"the new token {taken[value]!r} would have an id that the config uses",
                where=where,
                got=f"{key} is {value}",
                expected="a tokenizer that has a token of that id",
                hint="add that token to the base's tokenizer and save it; or write: vocabulary: base",
            )


def _config_ids(config: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _config_ids(value)
        elif key.endswith(("token_id", "token_index")) and isinstance(value, int):
            yield key, value


def _rows(size: int, used: int, needed: int) -> int:
    """Rows of the output: the base's, or as many more as are needed; padded where the base is padded."""
    if needed <= size or used >= size:
        return max(size, needed)
    multiple = size & -size  # the largest power of two that divides it
    multiple = min(multiple, 64)
    return -(-needed // multiple) * multiple


def _mapped(meant: Mapping[int, str], theirs: Tokenizer, rows: int, shared: int) -> NDArray[np.int64]:
    """The model's row of each row of the output; rows without a token meet by their place."""
    ids = theirs.ids
    mapped = np.full(rows, LACKS, dtype=np.int64)
    for index in range(rows):
        token = meant.get(index)
        if token is not None:
            mapped[index] = ids.get(token, LACKS)
        elif index < shared and index not in theirs.tokens:
            mapped[index] = index
    return mapped


def _length(expert: AnyExpert, tensors: frozenset[str]) -> int | None:
    """Rows of the expert's tensors that have one for each token; None where it has no such tensor.

    Raises:
        CheckpointError: they aren't equally long.
    """
    shapes = {name: shape_of(expert, name) for name in sorted(tensors) if expert.changes(name)}
    lengths = {shape[0]: name for name, shape in shapes.items()}
    if len(lengths) > 1:
        raise CheckpointError(
            f"embedding and head of expert {expert.name!r} have different numbers of rows",
            where=expert.path,
            got=", ".join(f"{length} of {name}" for length, name in lengths.items()),
            hint="resize its embeddings to its tokenizer with transformers, and save it again",
        )
    return next(iter(lengths), None)


def _resized(base: Base, tensors: frozenset[str], rows: int) -> Any:
    """The base's headers with as many rows as the output has."""
    resized = {
        name: replace(info, shape=(rows, *info.shape[1:])) if name in tensors else info
        for name, info in base.checkpoint.tensors.items()
    }
    return replace(base.checkpoint, tensors=resized)


def _counts(
    new: Mapping[str, Any],
    ids: Mapping[str, int],
    found: Mapping[str, Tokenizer | None],
    ours: Tokenizer,
) -> tuple[str, ...]:
    """What becomes of the tokens, for people."""
    known, notes = set(ours.tokens.values()), []
    if new:
        holders = {
            token: [n for n, t in found.items() if t is not None and token in t.added] for token in new
        }
        shared = [token for token, names in holders.items() if len(names) > 1]
        clashing = _clashing(new, found)
        words = f"vocabulary: {len(new)} tokens added ({_examples([f'{t!r} → {i}' for t, i in ids.items()])})"
        words += f", {len(shared)} of them by several experts"
        words += f"; {len(clashing)} ids stood for different ones ({_examples(clashing)})" if clashing else ""
        notes.append(words)
    for name, theirs in found.items():
        if theirs is None:
            continue
        dropped = [t for _, t in sorted(theirs.tokens.items()) if t not in known and t not in new]
        if dropped:
            notes.append(
                f"vocabulary: {_some(dropped)} of expert {name!r} are dropped, since the base lacks them"
            )
        held = set(theirs.tokens.values())
        lacking = [t for _, t in sorted(ours.tokens.items()) if t not in held]
        if lacking:
            notes.append(f"vocabulary: expert {name!r} lacks {_some(lacking)}, and counts as unchanged there")
    return tuple(notes)


def _clashing(new: Mapping[str, Any], found: Mapping[str, Tokenizer | None]) -> list[str]:
    """Ids at which two experts have different new tokens."""
    meanings: dict[int, dict[str, None]] = {}
    for theirs in found.values():
        for index, token in theirs.tokens.items() if theirs is not None else ():
            if token in new:
                meanings.setdefault(index, {})[token] = None
    return [
        f"{i}: {', '.join(map(repr, tokens))}" for i, tokens in sorted(meanings.items()) if len(tokens) > 1
    ]


def _some(tokens: Sequence[str]) -> str:
    return f"{len(tokens)} token{'s' if len(tokens) > 1 else ''} ({_examples([*map(repr, tokens)])})"


def _examples(words: Sequence[str], most: int = 3) -> str:
    return ", ".join(word[:60] for word in words[:most]) + (", …" if len(words) > most else "")
