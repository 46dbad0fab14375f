"""Embedding and head where a config ties them: one parameter by two names, until a recipe unties them.

In memory PEFT changes each end by what the adapter holds for it: a LoRA on the embedding leaves the head as
it was. So an adapter's change of a tied parameter is one change only where both ends get the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from optmerge.architectures import Architecture, resolve, untied
from optmerge.checkpoints.adapter_tensors import Part
from optmerge.checkpoints.adapters import Adapter, AdapterTensor
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.reader import Reader
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.planning.inputs import AdapterExpert, Base, FullExpert, Inputs
from optmerge.errors import AdapterError, CheckpointError, RecipeError

SAMPLE, BLOCK = 4096, 1 << 18
"""Entries at either end of two tensors that planning compares; entries that a run compares at a time."""

UNTIE = "untie: true"
"""What a recipe says to have embedding and head apart."""


def aliases(
    architecture: Architecture, checkpoint: Checkpoint, by_canonical: Mapping[str, str]
) -> dict[str, str]:
    """Stored tensors that the config ties to another stored tensor, and that look the same.

    A config's claim isn't enough: transformers keeps a head apart that is stored with other values.
    """
    if checkpoint.config is None:
        return {}
    pairs = [
        (by_canonical[alias], by_canonical[source])
        for alias, source in architecture.tied(checkpoint.config)
        if alias in by_canonical and source in by_canonical
    ]
    return {alias: source for alias, source in pairs if _look_same(checkpoint, alias, source)}


def tied_pairs(base: Base) -> tuple[tuple[str, str], ...]:
    """(alias, source) pairs of canonical names that are one parameter of the base, stored twice or once."""
    return tuple(
        (alias, source)
        for alias, source in base.architecture.tied(base.checkpoint.config or {})
        if source in base.by_canonical
        and (alias not in base.by_canonical or base.by_canonical[alias] in base.aliases)
    )


def take_apart(base: Base) -> Base:
    """A tied base as a model of two tensors, each of which holds what the one does.

    The head that isn't stored is a second name of the embedding's bytes; no tensor is read.

    Raises:
        CheckpointError: the base is a pickle, whose tensors have no second name.
    """
    checkpoint = base.checkpoint
    pairs = tied_pairs(base)
    if not pairs or checkpoint.config is None:
        return base  # the planner says that there was nothing to do
    if checkpoint.pickled:
        raise CheckpointError(
            "a pickled base can't be untied",
            where=checkpoint.path,
            hint="load and save it with transformers, which writes safetensors",
        )
    tensors, by_canonical = dict(checkpoint.tensors), dict(base.by_canonical)
    for alias, source in pairs:
        if alias not in by_canonical:
            name = _stored_name(alias, by_canonical[source], base.architecture)
            tensors[name] = replace(tensors[by_canonical[source]], name=name)
            by_canonical[alias] = name
    view = replace(
        checkpoint,
        tensors={name: tensors[name] for name in sorted(tensors)},
        config=untied(checkpoint.config),
    )
    return replace(base, checkpoint=view, aliases={}, by_canonical=by_canonical, untied=pairs)


def _stored_name(alias: str, source: str, architecture: Architecture) -> str:
    """The alias's name where the source has this one: transformers 4 puts `language_model.` before both."""
    parts, tail = source.split("."), alias.split(".")[-2:]
    names = (".".join((*parts[:count], *tail)) for count in range(len(parts), -1, -1))
    return next((name for name in names if architecture.canonical(name) == alias), alias)


def _same_in(checkpoint: Checkpoint, first: str, second: str) -> bool:
    with checkpoint.reader() as reader:
        return _same(reader, checkpoint.tensors[first], reader, checkpoint.tensors[second], whole=True)


def check_still_tied(
    checkpoint: Checkpoint, name: str, base: Base, ignored: Iterable[re.Pattern[str]]
) -> None:
    """Refuses an expert that stores two values for what is one parameter of the base."""
    for alias, source in _expert_ties(checkpoint, base, ignored):
        if not _look_same(checkpoint, alias, source):
            raise _differing_expert(name, checkpoint, alias, source)


def _expert_ties(
    checkpoint: Checkpoint, base: Base, ignored: Iterable[re.Pattern[str]]
) -> tuple[tuple[str, str], ...]:
    """(alias, source) pairs of a full expert's own names, both stored, that are one parameter of the base."""
    ignored = tuple(ignored)
    named = checkpoint.config is not None and base.checkpoint.config is not None
    architecture = resolve(checkpoint.config, checkpoint.tensors) if named else base.architecture
    own = {architecture.canonical(name): name for name in checkpoint.tensors}
    return tuple(
        (own[alias], own[source])
        for alias, source in tied_pairs(base)
        if alias in own
        and source in own
        and not any(pattern.search(own[end]) for pattern in ignored for end in (alias, source))
    )


def _differing_expert(expert: str, checkpoint: Checkpoint, alias: str, source: str) -> CheckpointError:
    """The error of an expert that stores two values for what is one parameter of the base."""
    return CheckpointError(
        f"expert {expert!r} has untied {alias} from {source}",
        where=checkpoint.path,
        expected="one value for both, as in the base",
        hint=f"to merge both, write in the recipe: {UNTIE}; "
        f"to leave the expert's own {alias} out: ignore: ['^{re.escape(alias)}$']",
    )


def _differing_base(checkpoint: Checkpoint, alias: str, source: str) -> CheckpointError:
    """The error of a base whose tied tensors turn out to be two."""
    return CheckpointError(
        f"{alias} and {source} differ, though the config ties them",
        where=checkpoint.path,
        hint=f"write in the recipe: {UNTIE}; or set tie_word_embeddings: false in the base's config.json",
    )


def check_can_be_untied(base: Base) -> None:
    """Refuses to untie a base whose ends can't be told, though its config says they are tied."""
    config = base.checkpoint.config
    unknown = base.architecture.generic and base.architecture.tie is None
    if config is None or (unknown and untied(config) != config):
        raise RecipeError(
            "the base can't be untied",
            where="untie",
            got="no config.json" if config is None else "a family whose head and embedding aren't known",
            hint="leave `untie` out; or save the base with tie_word_embeddings: false, head included",
        )


@dataclass(frozen=True)
class EndTargets:
    """How an adapter changes a tied parameter.

    Args:
        alias: canonical name of the head.
        source: canonical name of the embedding.
        head: the adapter's target for the head; None where it has none.
        embedding: the same for the embedding.
        one: whether both ends are changed alike in memory, as far as a few KiB tell.
    """

    alias: str
    source: str
    head: AdapterTensor | None
    embedding: AdapterTensor | None
    one: bool

    @property
    def words(self) -> str:
        """What the adapter holds, for a message."""
        held = [each.name for each in (self.embedding, self.head) if each is not None]
        return f"a change of {held[0]} alone" if len(held) == 1 else f"two changes, of {' and '.join(held)}"


def end_targets(
    adapter: Adapter, architecture: Architecture, pairs: Iterable[tuple[str, str]]
) -> Iterator[EndTargets]:
    """Those of the pairs that an adapter changes.

    Args:
        adapter: the adapter.
        architecture: of its base.
        pairs: (alias, source) pairs of canonical names.
    """
    targets = {architecture.canonical(name): target for name, target in adapter.targets.items()}
    for alias, source in pairs:
        head, embedding = targets.get(alias), targets.get(source)
        if head is not None or embedding is not None:
            yield EndTargets(alias, source, head, embedding, _changed_alike(adapter, head, embedding))


def _changed_alike(adapter: Adapter, head: AdapterTensor | None, embedding: AdapterTensor | None) -> bool:
    if head is None or embedding is None:
        only = head or embedding
        assert only is not None
        if only.kind == "full" and not _has_copy(adapter, only.name):
            return True  # PEFT loads it into the one parameter
        return bool(adapter.config.get("ensure_weight_tying")) and only.kind != "dora"
    return same_change(adapter, head, embedding, whole=False)


def same_change(adapter: Adapter, head: AdapterTensor, embedding: AdapterTensor, *, whole: bool) -> bool:
    """Whether two targets hold one change of a tied parameter.

    Args:
        adapter: whose targets they are.
        head: of a linear layer.
        embedding: of a table, whose factors PEFT stores the other way round.
        whole: compare all entries, a block at a time; otherwise a small part.
    """
    if head.kind != embedding.kind or head.kind == "dora":  # in DoRA each end has norms of its own
        return False
    with adapter.reader() as reader:
        values = [each.parts["full"] for each in (head, embedding) if "full" in each.parts]
        if len(values) == 2 and not _same(reader, values[0], reader, values[1], whole):
            return False
        if head.kind == "full":
            return True
        if head.embedding or not embedding.embedding or head.scaling != embedding.scaling:
            return False
        partners: list[tuple[Part, Part]] = [("down", "up"), ("up", "down")]
        return all(
            torch.equal(reader.read(head.parts[mine].name), reader.read(embedding.parts[theirs].name).T)
            for mine, theirs in partners[: 2 if whole else 1]
        )


def shared_start(ends: EndTargets, adapter: Adapter) -> TensorInfo | None:
    """The adapter's tensor that PEFT loads into the tied parameter itself, below what either end trains.

    That is the base of an adapted layer, which PEFT stores beside the factors of an embedding or a head.
    """
    for target in (ends.embedding, ends.head):
        if target is None or "full" not in target.parts:
            continue
        if target.kind != "full" or not _has_copy(adapter, target.name):
            return target.parts["full"]
    return None


def is_base(adapter: Adapter, info: TensorInfo, base: Base, name: str, *, whole: bool) -> bool:
    """Whether an adapter's tensor holds what a tensor of the base does."""
    with adapter.reader() as ours, base.checkpoint.reader() as theirs:
        return _same(ours, info, theirs, base.info(name), whole)


def apart(adapter: Adapter, base: Base) -> tuple[Adapter, dict[str, str]]:
    """An adapter of a tied base as one of the base taken apart.

    Returns:
        The adapter with every change of a tied parameter on each end that has it; and the base's tensor →
        target of the other end, where one target is for both.
    """
    added: dict[str, AdapterTensor] = {}
    also: dict[str, str] = {}
    for ends in end_targets(adapter, base.architecture, base.untied):
        start = shared_start(ends, adapter)
        if start is not None and is_base(adapter, start, base, base.by_canonical[ends.source], whole=False):
            start = None
        for canonical, own, other in (
            (ends.alias, ends.head, ends.embedding),
            (ends.source, ends.embedding, ends.head),
        ):
            if own is None and other is not None and ends.one:
                also[base.by_canonical[canonical]] = other.name
            elif start is not None and own is None:
                added[canonical] = _new_value(canonical, start)
            elif start is not None and own is not None and "full" not in own.parts:
                added[own.name] = replace(own, parts={**own.parts, "full": start})
    return replace(adapter, targets={**adapter.targets, **added}), also


def _new_value(name: str, info: TensorInfo) -> AdapterTensor:
    return AdapterTensor(name, "full", info.shape, None, 1.0, False, False, {"full": info})


def _has_copy(adapter: Adapter, name: str) -> bool:
    """Whether PEFT trains a copy of the module (`modules_to_save`) and leaves the base's own as it is."""
    modules = adapter.config.get("modules_to_save")
    saved = [each for each in modules if isinstance(each, str)] if isinstance(modules, list) else []
    return any(name.rpartition(".")[0].endswith(module) for module in saved)


def _look_same(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors agree in type, shape and their first and last entries; reads a few KiB."""
    with checkpoint.reader() as reader:
        return _same(reader, checkpoint.tensors[first], reader, checkpoint.tensors[second], whole=False)


def _same(ours: Reader, one: TensorInfo, theirs: Reader, other: TensorInfo, whole: bool) -> bool:
    """Whether two tensors agree in type, shape and values: all of them, or the first and last."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    size = one.numel
    spans = [(0, min(SAMPLE, size)), (max(0, size - SAMPLE), size)]
    if whole:
        spans = [(start, min(size, start + BLOCK)) for start in range(0, size, BLOCK)]
    return all(
        torch.equal(ours.read_flat(one.name, *span), theirs.read_flat(other.name, *span)) for span in spans
    )


def check_whole(inputs: Inputs, ignored: Iterable[re.Pattern[str]], read: Iterable[str]) -> None:
    """Compares in full what planning took for one tensor by a sample.

    Args:
        inputs: the opened base and experts.
        ignored: patterns of the experts' tensors that the recipe disregards.
        read: the base's names of the tensors that are merged, or copied from an expert.

    Raises:
        CheckpointError: two tensors of one model differ between their ends.
        AdapterError: two changes that an adapter makes to one parameter do.
    """
    ignored, read = tuple(ignored), frozenset(read)
    stored = inputs.base.checkpoint if inputs.tokens is None else inputs.tokens.stored
    base = replace(inputs.base, checkpoint=stored)
    for alias, source in base.aliases.items():
        if not _same_in(base.checkpoint, alias, source):
            raise _differing_base(base.checkpoint, alias, source)
    for expert in inputs.experts:
        if isinstance(expert, FullExpert):
            for alias, source in _expert_ties(expert.checkpoint, base, ignored):
                if not _same_in(expert.checkpoint, alias, source):
                    raise _differing_expert(expert.name, expert.checkpoint, alias, source)
            continue
        for ends in end_targets(expert.adapter, base.architecture, (*tied_pairs(base), *base.untied)):
            if base.by_canonical[ends.source] in read or ends.alias in base.by_canonical:
                _check_ends_whole(expert, ends, base)


def _check_ends_whole(expert: AdapterExpert, ends: EndTargets, base: Base) -> None:
    adapter, start = expert.adapter, shared_start(ends, expert.adapter)
    both = ends.head is not None and ends.embedding is not None
    name = base.by_canonical[ends.source]
    if both and ends.one and not base.untied:
        assert ends.head is not None and ends.embedding is not None
        if not same_change(adapter, ends.head, ends.embedding, whole=True):
            raise two_changes(expert, replace(ends, one=False))
    elif (
        start is not None
        and is_base(adapter, start, base, name, whole=False)
        and not is_base(adapter, start, base, name, whole=True)
    ):
        raise AdapterError(
            f"adapter {expert.name!r} holds another embedding than the base's, between its ends",
            where=adapter.file,
            got=start.name,
            expected=f"the values of {name}, as at its ends",
            hint=f"to merge the adapter's own {name}, write in the recipe: {UNTIE}; "
            f"to leave the change out: select: {{exclude: ['^{re.escape(name)}$']}}",
        )


def two_changes(expert: AdapterExpert, ends: EndTargets) -> AdapterError:
    """The error of an adapter whose changes of a tied parameter are not one."""
    return AdapterError(
        f"adapter {expert.name!r} has untied {ends.alias} from {ends.source}",
        where=expert.adapter.file,
        got=ends.words,
        expected="one change of both, since the base ties them",
        hint=f"to keep what PEFT computes, write in the recipe: {UNTIE}; "
        f"to leave the changes out: select: {{exclude: ['{re.escape(ends.source)}$']}}",
    )
