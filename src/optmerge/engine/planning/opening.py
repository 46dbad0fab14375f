"""The base and the experts, opened and matched tensor by tensor; headers and configs are all that is read.

Names are matched by their canonical form, so a checkpoint in transformers 4's names, one in transformers 5's
and an adapter, whose names are those in memory, meet. What doesn't meet is refused, not skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from optmerge.architectures import Architecture, resolve
from optmerge.checkpoints.adapters import Adapter, TargetPiece, open_model
from optmerge.checkpoints.checkpoint import Checkpoint, is_adapter, open_checkpoint
from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.planning.adapter_matching import in_the_bases_names, match_adapter, with_beside
from optmerge.engine.planning.configs import check_config
from optmerge.engine.planning.ends import (
    aliases,
    apart,
    check_can_be_untied,
    check_still_tied,
    take_apart,
    tied_pairs,
)
from optmerge.engine.planning.inputs import AdapterExpert, AnyExpert, Base, FullExpert, Inputs
from optmerge.engine.planning.vocabulary import (
    check_strict,
    check_vocabulary,
    token_tensors,
    with_token_rows,
)
from optmerge.engine.planning.wrappers import refuse_what_is_no_model, unwrapped
from optmerge.errors import CheckpointError
from optmerge.recipe import Expert, Recipe


def open_inputs(recipe: Recipe) -> Inputs:
    """Opens and matches the base and all experts; reads headers and configs only.

    Raises:
        InputError: something is missing, unreadable, or doesn't fit together.
    """
    base = open_base(recipe)
    names = recipe.expert_names()
    strict = recipe.vocabulary.tokens == "strict"
    by_token = frozenset() if strict else token_tensors(base)
    pairs = zip(recipe.experts, names, strict=True)
    experts = tuple(_open_expert(spec, name, base, recipe, by_token) for spec, name in pairs)
    inputs = Inputs(base, experts)
    if strict:
        return replace(inputs, notes=check_strict(recipe, inputs))
    return with_token_rows(recipe, inputs, by_token)


def open_base(recipe: Recipe) -> Base:
    """Opens the base."""
    if is_adapter(locate(recipe.base, allow_pickle=recipe.allow_pickle)):
        raise CheckpointError(
            "the base is an adapter",
            where=recipe.base,
            expected="a full checkpoint",
            hint="give the model the adapter was trained on as base, and the adapter as an expert",
        )
    checkpoint = open_checkpoint(recipe.base, allow_pickle=recipe.allow_pickle)
    _refuse_quantised(checkpoint)
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    names = by_canonical(architecture, checkpoint)
    base = Base(checkpoint, architecture, aliases(architecture, checkpoint, names), names)
    if not recipe.untie:
        return base
    check_can_be_untied(base)
    return take_apart(base)


def _open_expert(spec: Expert, name: str, base: Base, recipe: Recipe, by_token: frozenset[str]) -> AnyExpert:
    ignored = [re.compile(pattern) for pattern in recipe.ignore]
    model = open_model(spec.model, allow_pickle=recipe.allow_pickle, ignored=ignored)
    if isinstance(model, Adapter):
        adapter, renamed = in_the_bases_names(with_beside(model, base, ignored), base)
        adapter, also = apart(adapter, base)
        pieces = match_adapter(adapter, spec, base, ignored, by_token)
        both = {name: TargetPiece(target) for name, target in also.items() if not _any(ignored, name)}
        return AdapterExpert(name, spec, adapter, pieces | both, renamed)
    _refuse_quantised(model)
    model = unwrapped(model, base)
    if not by_token:  # sooner than that shapes differ
        check_vocabulary(base.checkpoint.folder, model.folder, name)
    matched, swapped = match_checkpoint(model, name, base, ignored, by_token)
    check_config(model, spec, name, base)
    return FullExpert(name, spec, model, matched, swapped)


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    if checkpoint.config and checkpoint.config.get("quantization_config"):
        raise CheckpointError(
            "the checkpoint is quantised",
            where=checkpoint.path,
            got=checkpoint.config["quantization_config"].get("quant_method", "quantization_config"),
            expected="float32, bfloat16 or float16 weights",
            hint="merge the unquantised checkpoints and quantise the result",
        )


def by_canonical(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, str]:
    """Canonical name → name as stored.

    Raises:
        CheckpointError: two stored tensors are one parameter.
    """
    names: dict[str, str] = {}
    for name in checkpoint.tensors:
        canonical = architecture.canonical(name)
        if canonical in names:
            raise CheckpointError(
                "two tensors are the same parameter",
                where=checkpoint.path,
                got=f"{names[canonical]} and {name}",
                expected=f"one tensor for {canonical}",
                hint="load and save the checkpoint with transformers",
            )
        names[canonical] = name
    return names


def match_checkpoint(
    checkpoint: Checkpoint,
    name: str,
    base: Base,
    ignored: Iterable[re.Pattern[str]],
    by_token: frozenset[str] = frozenset(),
) -> tuple[dict[str, str], frozenset[str]]:
    """The base's tensor → the expert's, and which of the base's the expert stores with swapped axes.

    Those named in `by_token` may have more rows or fewer.

    Raises:
        CheckpointError: a tensor is missing, extra or of another shape.
    """
    _check_family(checkpoint, name, base)
    named = checkpoint.config is not None and base.checkpoint.config is not None
    architecture = resolve(checkpoint.config, checkpoint.tensors) if named else base.architecture
    stored = by_canonical(architecture, checkpoint)
    for alias, source in architecture.tied(checkpoint.config or {}):
        if alias in base.by_canonical and alias not in stored and source in stored:
            stored[alias] = stored[source]
    left_out = {c for names in (stored, base.by_canonical) for c, n in names.items() if _any(ignored, n)}
    own = {c: n for c, n in stored.items() if c not in left_out}
    wanted = {c: n for c, n in base.by_canonical.items() if c not in left_out}
    tied = {alias for alias, _ in tied_pairs(base)}
    check_still_tied(checkpoint, name, base, ignored)
    missing = [n for c, n in wanted.items() if c not in own and c not in tied]
    extra = [n for c, n in own.items() if c not in wanted and c not in tied]
    pairs = {c: (base.info(wanted[c]), checkpoint.tensors[own[c]]) for c in wanted if c in own}
    swapped = {c for c, each in pairs.items() if _is_swapped(*each, base.architecture, architecture)}
    other = [
        c
        for c, (ours, theirs) in pairs.items()
        if not _same_shape(ours.shape, _shape(theirs, c in swapped), ours.name in by_token)
    ]
    if missing or extra or other:
        refuse_what_is_no_model(checkpoint, name)
    if missing and extra and all(".experts." in each for each in (*missing, *extra)):
        raise CheckpointError(
            f"expert {name!r} stores its mixture in another layout than the base: stacked, or one by one",
            where=checkpoint.path,
            got=extra[0],
            expected=missing[0],
            hint="load both and save them with one version of transformers",
        )
    if 2 * max(len(missing) + len(other), len(extra)) > len(wanted):
        raise _no_fine_tune(missing, extra, [pairs[c] for c in other], checkpoint, name)
    if missing:
        raise _mismatch("lacks", missing, checkpoint, name, base)
    if extra:
        raise _mismatch("has, and the base has not,", extra, checkpoint, name, base)
    if other:
        raise _other_shape(*pairs[other[0]], name, base)
    return {wanted[c]: own[c] for c in pairs}, frozenset(wanted[c] for c in swapped)


def _is_swapped(ours: TensorInfo, theirs: TensorInfo, base: Architecture, expert: Architecture) -> bool:
    """Whether an expert stores the last two axes of a tensor in the other order than the base."""
    roles = base.role(ours.name, ours.shape), expert.role(theirs.name, theirs.shape)
    known = ours.shape != theirs.shape or not base.generic
    return known and roles[0].transposed != roles[1].transposed


def _same_shape(ours: tuple[int, ...], theirs: tuple[int, ...], by_token: bool) -> bool:
    """Whether the shapes agree; rows that are matched by token needn't be as many."""
    return ours[1:] == theirs[1:] and len(ours) == len(theirs) if by_token else ours == theirs


def _shape(info: TensorInfo, swapped: bool) -> tuple[int, ...]:
    return (*info.shape[:-2], info.shape[-1], info.shape[-2]) if swapped else info.shape


def _check_family(checkpoint: Checkpoint, name: str, base: Base) -> None:
    ours, theirs = base.checkpoint.config or {}, checkpoint.config or {}
    kinds = ours.get("model_type"), theirs.get("model_type")
    names = {base.architecture.name, resolve(checkpoint.config, checkpoint.tensors).name}
    if None in kinds or kinds[0] == kinds[1] or len(names) == 1:
        return
    raise CheckpointError(
        f"expert {name!r} is another kind of model than the base",
        where=checkpoint.path,
        got=f"model_type {kinds[1]}",
        expected=f"model_type {kinds[0]}",
        hint="merge only models that were fine-tuned from one base",
    )


def _no_fine_tune(
    missing: list[str],
    extra: list[str],
    other: list[tuple[TensorInfo, TensorInfo]],
    checkpoint: Checkpoint,
    expert: str,
) -> CheckpointError:
    """Most of the model doesn't fit, so there is nothing to disregard."""
    if missing or extra:
        got, expected = (", ".join(names[:3]) or "nothing else" for names in (extra, missing))
        got, expected = f"tensors such as {got}", f"tensors such as {expected}"
    else:
        ours, theirs = other[0]
        got, expected = f"{theirs.name} {list(theirs.shape)}", str(list(ours.shape))
    return CheckpointError(
        f"expert {expert!r} is no fine-tune of this base: most tensors differ in name or shape",
        where=checkpoint.path,
        got=got,
        expected=expected,
        hint="merge models that were fine-tuned from one base; `optmerge inspect MODEL` says what it holds",
    )


def _mismatch(
    verb: str, names: list[str], checkpoint: Checkpoint, expert: str, base: Base
) -> CheckpointError:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    patterns = ", ".join(f"'{each}'" for each in _patterns(names, checkpoint, base))
    return CheckpointError(
        f"expert {expert!r} {verb} {len(names)} tensor{'s' if len(names) > 1 else ''}: {shown}",
        where=checkpoint.path,
        expected="exactly the base's tensors",
        hint=f"if it may be disregarded, write in the recipe: ignore: [{patterns}]",
    )


def _patterns(names: Iterable[str], checkpoint: Checkpoint, base: Base) -> list[str]:
    """Regular expressions for these names: one for all that differ in numbers, where it matches no other."""
    others = {*checkpoint.tensors, *base.checkpoint.tensors} - set(names)
    found: dict[str, None] = {}
    for name in names:
        exact = f"^{re.escape(name)}$"
        form = re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", exact)
        found[exact if any(re.search(form, other) for other in others) else form] = None
    return list(found)


def _other_shape(ours: TensorInfo, theirs: TensorInfo, expert: str, base: Base) -> CheckpointError:
    kind = base.architecture.role(ours.name, ours.shape).kind
    vocabulary = kind in ("embedding", "head") and ours.shape[1:] == theirs.shape[1:]
    hint = (
        "the vocabularies differ: write in the recipe vocabulary: union, or base to keep the base's tokens; "
        "or resize the expert's embeddings to the base's tokenizer and save it again"
        if vocabulary
        else f"if it may be disregarded, write in the recipe: ignore: ['^{re.escape(ours.name)}$']"
    )
    return CheckpointError(
        f"tensor {theirs.name} of expert {expert!r} has another shape than the base's",
        where=theirs.file,
        got=list(theirs.shape),
        expected=list(ours.shape),
        hint=hint,
    )


def _any(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.search(name) for pattern in patterns)
