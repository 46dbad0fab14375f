"""What can't be merged, or written as asked, though each model is sound: vocabularies and adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.paths import member
from optmerge.engine.plan import Action, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.errors import CheckpointError, RecipeError
from optmerge.recipe import BASE, Recipe

TOKENIZER = "tokenizer.json"

FACTORED = ("matrix", "transposed", "flatten")
"""Layouts of tensors that can be two factors."""


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


def check_adapter_output(recipe: Recipe, tensors: Sequence[TensorPlan], inputs: Inputs) -> None:
    """Refuses an adapter as output where it couldn't hold the merge.

    Raises:
        RecipeError: a full delta has full rank, or some tensor is no matrix and no whole module.
    """
    if recipe.output.format != "adapter":
        return
    if recipe.output.rank is None and not all(isinstance(each, AdapterExpert) for each in inputs.experts):
        raise RecipeError(
            "an adapter of exact rank can only be made of adapters",
            where="output",
            got="full checkpoints among the experts, whose deltas have full rank",
            hint="give the rank to truncate to: output: {format: adapter, rank: 64}; the error is reported",
        )
    replaceable = _replaceable_modules(tensors)
    for tensor in tensors:
        if tensor.action is Action.MERGE:
            fits = tensor.layout in FACTORED or _module(tensor) in replaceable
        else:
            fits = tensor.action is Action.ALIAS or tensor.source == BASE
        if not fits:
            raise RecipeError(
                f"an adapter can't hold {tensor.name}",
                where="output",
                got=f"{tensor.reason.words}, shape {list(tensor.shape)}, layout {tensor.layout}",
                expected="merged matrices, or merged whole modules without one",
                hint="leave it out with select: {exclude: […]}, or write output: dense",
            )


def _replaceable_modules(tensors: Sequence[TensorPlan]) -> frozenset[str]:
    """Modules that are merged vectors throughout, which `modules_to_save` can replace."""
    modules: dict[str, list[bool]] = defaultdict(list)
    for tensor in tensors:
        modules[_module(tensor)].append(tensor.action is Action.MERGE and tensor.layout == "vector")
    return frozenset(module for module, vectors in modules.items() if all(vectors))


def _module(tensor: TensorPlan) -> str:
    return tensor.name.rpartition(".")[0]
