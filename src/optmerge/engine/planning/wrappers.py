"""Names that a wrapper gave to the model inside it, and files that are no fine-tune at all, by what they are.

torch.compile, DDP, FSDP, activation checkpointing, PEFT and Lightning put a level into every name. The
weights are the model's own, so such names are read as the model's. What can't be read is named, with the
command that converts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from optmerge.architectures import resolve
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.planning.inputs import Base
from optmerge.errors import CheckpointError

_LEVELS = re.compile(r"(?:^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AROUND = ("base_model.model.", "_forward_module.", "module.", "model.")
"""What a wrapper puts before every name, the longest first."""

_DEEPEST = 4
"""Wrappers that may lie around each other."""


def unwrapped(checkpoint: Checkpoint, base: Base) -> Checkpoint:
    """The expert with the names inside its wrappers, where those are the base's; else the expert as it is.

    Args:
        checkpoint: the expert.
        base: the base.

    Raises:
        CheckpointError: the expert is a pickle, whose tensors have no second name.
    """
    known = _shared(checkpoint, base)
    if known == len(checkpoint.tensors):
        return checkpoint
    views = [replace(checkpoint, tensors=tensors) for tensors in _readings(checkpoint.tensors)]
    best = max(views, key=lambda view: _shared(view, base), default=checkpoint)
    inside = _shared(best, base)
    if inside <= known or 2 * inside < len(base.by_canonical):
        return checkpoint
    if checkpoint.pickled:
        raise CheckpointError(
            "a pickle holds the names of a wrapper, not the model's",
            where=checkpoint.path,
            got=next(iter(checkpoint.tensors)),
            expected=next(iter(best.tensors)),
            hint="load it into the model inside the wrapper, and save it with save_pretrained",
        )
    return best


def _shared(checkpoint: Checkpoint, base: Base) -> int:
    """How many parameters of the base an expert's names lead to."""
    named = checkpoint.config is not None and base.checkpoint.config is not None
    architecture = resolve(checkpoint.config, checkpoint.tensors) if named else base.architecture
    return len({architecture.canonical(name) for name in checkpoint.tensors} & base.by_canonical.keys())


def _readings(tensors: dict[str, TensorInfo]) -> Iterator[dict[str, TensorInfo]]:
    """The same tensors without one wrapper's names, without two, and so on; none that makes two names one."""
    names = {name: _LEVELS.sub("", name) for name in tensors}
    for _ in range(_DEEPEST):
        if len(set(names.values())) == len(names):
            yield {names[name]: replace(info, name=names[name]) for name, info in tensors.items()}
        around = _around(list(names.values()))
        if not around:
            return
        names = {name: inner.removeprefix(around) for name, inner in names.items()}


def _around(names: Sequence[str]) -> str:
    """What a wrapper may have put before these names: a usual prefix, or any level that all of them share."""
    usual = next((prefix for prefix in _AROUND if all(name.startswith(prefix) for name in names)), None)
    if usual is not None:
        return usual
    first = {name.partition(".")[0] for name in names if "." in name}
    return f"{first.pop()}." if len(first) == 1 and all("." in name for name in names) else ""


def refuse_what_is_no_model(checkpoint: Checkpoint, name: str) -> None:
    """Refuses states of training that were saved in place of a model, each with what makes it one.

    Raises:
        CheckpointError: empty or flattened tensors, an optimizer's state, unmerged adapters, quantisation.
    """
    tensors = checkpoint.tensors
    for pattern, what, hint in _STATES:
        found = [own for own in tensors if pattern.search(own)]
        if found:
            raise CheckpointError(
                f"expert {name!r} {what}", where=checkpoint.path, got=_some(found), hint=hint
            )
    empty = [own for own, info in tensors.items() if not info.numel]
    if 2 * len(empty) > len(tensors):
        raise CheckpointError(
            f"expert {name!r} holds empty tensors: it was saved under DeepSpeed ZeRO-3, which spreads them",
            where=checkpoint.path,
            got=_some(empty),
            hint="in the folder of the training's checkpoint run `python zero_to_fp32.py . OUT "
            "--safe_serialization`, or save again with stage3_gather_16bit_weights_on_model_save: true",
        )


_STATES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(^|\.)_?flat_param(_\d+)?$"),
        "holds FSDP's flattened parameters, not the model's",
        "gather them: `accelerate merge-weights SHARDS OUT`, or save with FULL_STATE_DICT",
    ),
    (
        re.compile(r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)$|^(optimizer|param_groups)\."),
        "holds the state of an optimizer",
        "give the folder of the model that was saved beside it (save_pretrained writes it)",
    ),
    (
        re.compile(r"\.(lora_[AB]|lora_embedding_[AB])(\.|$)|\.base_layer\."),
        "holds adapters that aren't merged into its weights",
        "merge them and save the model again: model.merge_and_unload().save_pretrained(OUT); what InternVL "
        "trained with use_llm_lora is merged by its tools/merge_lora.py",
    ),
    (
        re.compile(r"\.(qweight|qzeros|weight_scale_inv|weight_packed|absmax|quant_map|quant_state\..*)$"),
        "holds quantised weights",
        "merge the unquantised checkpoints and quantise the result",
    ),
)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
