"""Reasons why experts can't be composed, found in headers, configurations and a sample of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from optmerge.checkpoints.reader import Reader
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.planning.vocabulary import check_vocabulary
from optmerge.errors import CheckpointError, InputError, did_you_mean
from optmerge.omni.experts import Language, OmniExpert

SAMPLE = 4096
"""Number of entries of each tensor that are compared."""

RELATED = 0.5
"""Least cosine between the weights of a language model and of a fine-tuned one; in practice it is near 1."""

_SHAPE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_parameters"),
)

ONE_TOKENIZER = (
    "give every expert one tokenizer that holds all placeholders (optmerge.omni.add_placeholders), set token "
    "and token_id of their towers to it, and save them again; no weight depends on a placeholder"
)


def choose_towers(experts: Sequence[OmniExpert], asked: Mapping[str, str]) -> dict[str, OmniExpert]:
    """The expert whose tower is kept, for each modality.

    Args:
        experts: the experts, in the order of the recipe.
        asked: modality → name of the expert to take it from, where several have a tower for it.

    Raises:
        InputError: several experts have a tower for a modality that `asked` leaves out, and not just one of
            them is an adapter that trained its tower; or the expert asked for has no tower for it.
    """
    having: dict[str, list[OmniExpert]] = {}
    for expert in experts:
        for modality in expert.config.towers:
            having.setdefault(modality, []).append(expert)
    for modality, name in asked.items():
        names = [expert.name for expert in having.get(modality, [])]
        if name not in names:
            raise InputError(
                f"expert {name!r} has no {modality} tower",
                where=f"towers: {modality}",
                hint=did_you_mean(name, names) if names else "no expert has one",
            )
    for modality, owners in having.items():
        # Adapters of one model all have its towers, but each may have trained another.
        trained = [expert for expert in owners if modality in expert.trained]
        if len(trained) == 1 and modality not in asked:
            owners[:] = trained
        if len(owners) > 1 and modality not in asked:
            names = [expert.name for expert in owners]
            raise InputError(
                f"{len(owners)} experts have a tower for {modality}",
                got=", ".join(names),
                expected="one",
                hint=f"say whose is kept, as in --tower {modality}={names[0]}; language models are merged",
            )
    return {
        modality: next(each for each in owners if each.name == asked.get(modality, each.name))
        for modality, owners in having.items()
    }


def check_language(base: Language, expert: OmniExpert) -> None:
    """Refuses an expert that was built around another language model.

    Raises:
        InputError: the expert's language model has another vocabulary, other shapes or unrelated weights.
    """
    ours, theirs = base.text_config, expert.config.text_config
    if ours.vocab_size != theirs.vocab_size:
        raise CheckpointError(
            f"expert {expert.name!r} has another vocabulary than the base",
            where=expert.model.path,
            got=f"vocab_size {theirs.vocab_size}",
            expected=ours.vocab_size,
            hint="resize its embeddings to the base's; placeholders need none",
        )
    for key in _SHAPE:
        if getattr(ours, key, None) != getattr(theirs, key, None):
            raise _another(expert, f"{key} {getattr(theirs, key, None)}", f"{key} {getattr(ours, key, None)}")
    check_vocabulary(base.checkpoint.folder, expert.model.folder, expert.name)
    _check_weights(base, expert)


def _check_weights(base: Language, expert: OmniExpert) -> None:
    """Refuses an adapter trained on another language model, and fine-tuned weights unlike the base's."""
    theirs = expert.language
    shared = [
        name
        for name, info in base.tensors.items()
        if name in theirs and info.shape == theirs[name].shape and len(info.shape) > 1
    ]
    likeness = []
    with (
        replace(base.checkpoint, tensors=dict(base.tensors)).reader() as one,
        expert.model.reader() as other,
    ):
        for name in shared:
            mine, its = _sample(one, base.tensors[name], name), _sample(other, theirs[name], name)
            if expert.adapter and not _same(mine, its):
                raise _another(expert, f"another {name}", "the base, bit for bit, under the adapter")
            likeness.append(float(torch.cosine_similarity(mine.float(), its.float(), dim=0)))
    if likeness and median(likeness) < RELATED:
        raise _another(
            expert, f"weights unlike the base's (median cosine {median(likeness):.2f})", "fine-tuned weights"
        )


def _sample(reader: Reader, info: TensorInfo, name: str) -> Tensor:
    return reader.read_flat(name, 0, min(info.numel, SAMPLE))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two samples are equal, or one was rounded from the other to a narrower type."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(other.to(one.dtype), one)


def _another(expert: OmniExpert, got: str, expected: str) -> CheckpointError:
    return CheckpointError(
        f"expert {expert.name!r} was built around another language model",
        where=expert.model.path,
        got=got,
        expected=expected,
        hint="compose only experts of one language model, and give that as the base",
    )
