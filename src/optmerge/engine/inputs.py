"""The base and the experts of a merge, opened from headers and matched tensor by tensor.

Names are matched by their canonical form, so a checkpoint in transformers 4's names, one in transformers 5's
and an adapter, whose names are those in memory, meet. What doesn't meet is refused, not skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.architectures import Architecture, resolve
from optmerge.checkpoints.adapters import Adapter, open_adapter
from optmerge.checkpoints.hub import locate, looks_like_hub_id
from optmerge.checkpoints.reader import Checkpoint, is_adapter, open_checkpoint
from optmerge.checkpoints.reading import Reader
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.engine.precheck import check_recipe
from optmerge.engine.vocabulary import check_vocabulary
from optmerge.errors import AdapterError, CheckpointError
from optmerge.recipe import Expert, Recipe

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that can be merged."""

SAMPLE = 4096
"""Entries at either end that are compared to see whether two tensors are one."""


@dataclass(frozen=True)
class Base:
    """The base of a merge.

    Args:
        checkpoint: its headers.
        architecture: its rules.
        aliases: stored tensor → stored tensor it is tied to, both names as stored.
        by_canonical: canonical name → name as stored.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    aliases: Mapping[str, str]
    by_canonical: Mapping[str, str]

    def info(self, name: str) -> TensorInfo:
        """Header entry of a tensor."""
        return self.checkpoint.tensors[name]


@dataclass(frozen=True)
class FullExpert:
    """An expert that is a whole checkpoint.

    Args:
        name: of the expert.
        spec: as in the recipe.
        checkpoint: its headers.
        tensors: the base's tensor name → its own.
    """

    name: str
    spec: Expert
    checkpoint: Checkpoint
    tensors: Mapping[str, str]

    low_rank = False

    @property
    def folder(self) -> Path | None:
        """Its folder; None for a bare file."""
        return self.checkpoint.folder

    def changes(self, name: str) -> bool:
        """Whether it may hold another value than the base."""
        return name in self.tensors

    def input_bytes(self, name: str) -> int:
        """Bytes read for one tensor."""
        return self.checkpoint.tensors[self.tensors[name]].nbytes if self.changes(name) else 0

    def identity(self) -> dict[str, Any]:
        """What it is, for provenance."""
        return {"kind": "full", "identity": self.checkpoint.identity(), "bytes": self.checkpoint.nbytes}

    def stamps(self) -> list[list[int]]:
        """Size and time of change of every file, to notice a change between two runs."""
        return [[header.file_bytes, header.modified_ns] for header in self.checkpoint.headers.values()]

    def open(self) -> Reader:
        """A context manager to read from."""
        return self.checkpoint.reader()


@dataclass(frozen=True)
class AdapterExpert:
    """An expert that is a PEFT adapter of the base.

    Args:
        name: of the expert.
        spec: as in the recipe.
        adapter: its header.
        tensors: the base's tensor name → the adapter's target.
    """

    name: str
    spec: Expert
    adapter: Adapter
    tensors: Mapping[str, str]

    @property
    def folder(self) -> Path | None:
        """Its folder."""
        return self.adapter.path

    @property
    def low_rank(self) -> bool:
        """Whether every delta stays factors."""
        return all(target.kind == "lora" for target in self.adapter.targets.values())

    def changes(self, name: str) -> bool:
        """Whether it holds a delta for a tensor of the base."""
        return name in self.tensors

    def input_bytes(self, name: str) -> int:
        """Bytes read for one tensor."""
        if not self.changes(name):
            return 0
        return sum(part.nbytes for part in self.adapter.targets[self.tensors[name]].parts.values())

    def rank(self, name: str) -> int | None:
        """Rank of a tensor's delta; 0 where it has none, None where it is dense."""
        if not self.changes(name):
            return 0
        target = self.adapter.targets[self.tensors[name]]
        return target.rank if target.kind == "lora" else None

    def identity(self) -> dict[str, Any]:
        """What it is, for provenance."""
        return {
            "kind": "adapter",
            "identity": self.adapter.identity(),
            "bytes": self.adapter.header.file_bytes,
        }

    def stamps(self) -> list[list[int]]:
        """Size and time of change of every file, to notice a change between two runs."""
        return [[self.adapter.header.file_bytes, self.adapter.header.modified_ns]]

    def open(self) -> AbstractContextManager[None]:
        """Adapters open their file for each delta; nothing is held."""
        return nullcontext()

    def delta(self, name: str, read_base: Callable[[], Tensor], shape: tuple[int, ...]) -> Delta:
        """Its delta of one tensor; factors where it can be, an exact zero where it has none."""
        if not self.changes(name):
            return _no_change(shape)
        return self.adapter.delta(self.tensors[name], read_base, shape)


AnyExpert = FullExpert | AdapterExpert


@dataclass(frozen=True)
class Inputs:
    """Everything a merge reads."""

    base: Base
    experts: tuple[AnyExpert, ...]

    @property
    def low_rank(self) -> bool:
        """Whether every expert's deltas are known to be low-rank."""
        return all(expert.low_rank for expert in self.experts)

    def factors(self, name: str) -> bool:
        """Whether some expert's delta of a tensor of the base comes as factors."""
        return any(isinstance(expert, AdapterExpert) and expert.rank(name) for expert in self.experts)

    def expert(self, name: str) -> AnyExpert:
        """The expert of that name."""
        return next(expert for expert in self.experts if expert.name == name)


def open_inputs(recipe: Recipe) -> Inputs:
    """Opens and matches the base and all experts; reads headers and configs only.

    Raises:
        InputError: something is missing, unreadable, or doesn't fit together.
    """
    check_recipe(recipe)
    base = open_base(recipe)
    names = recipe.expert_names()
    pairs = zip(recipe.experts, names, strict=True)
    return Inputs(base, tuple(_open_expert(spec, name, base, recipe) for spec, name in pairs))


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
    by_canonical = _by_canonical(architecture, checkpoint)
    return Base(checkpoint, architecture, _aliases(architecture, checkpoint, by_canonical), by_canonical)


def _by_canonical(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, str]:
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


def _aliases(
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


def _look_same(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors agree in type, shape and their first and last entries; reads a few KiB."""
    one, other = checkpoint.tensors[first], checkpoint.tensors[second]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    spans = ((0, min(SAMPLE, one.numel)), (max(0, one.numel - SAMPLE), one.numel))
    with checkpoint.reader() as reader:
        return all(torch.equal(reader.read_flat(first, *s), reader.read_flat(second, *s)) for s in spans)


def tied_names(base: Base) -> frozenset[str]:
    """Canonical names of parameters that are another one under a second name, stored or not."""
    pairs = base.architecture.tied(base.checkpoint.config or {})
    return frozenset(
        alias
        for alias, _ in pairs
        if alias not in base.by_canonical or base.by_canonical[alias] in base.aliases
    )


def _open_expert(spec: Expert, name: str, base: Base, recipe: Recipe) -> AnyExpert:
    ignored = [re.compile(pattern) for pattern in recipe.ignore]
    if is_adapter(locate(spec.model, allow_pickle=recipe.allow_pickle)):
        adapter = open_adapter(spec.model, allow_pickle=recipe.allow_pickle)
        return AdapterExpert(name, spec, adapter, _match_adapter(adapter, spec, base, ignored))
    checkpoint = open_checkpoint(spec.model, allow_pickle=recipe.allow_pickle)
    _refuse_quantised(checkpoint)
    check_vocabulary(base.checkpoint, checkpoint, name)
    return FullExpert(name, spec, checkpoint, _match_checkpoint(checkpoint, name, base, ignored))


def _match_checkpoint(
    checkpoint: Checkpoint, name: str, base: Base, ignored: Iterable[re.Pattern[str]]
) -> dict[str, str]:
    """The base's tensor → the expert's; refuses missing, extra and differently shaped tensors."""
    _check_family(checkpoint, name, base)
    named = checkpoint.config is not None and base.checkpoint.config is not None
    architecture = resolve(checkpoint.config, checkpoint.tensors) if named else base.architecture
    stored = _by_canonical(architecture, checkpoint)
    left_out = {c for names in (stored, base.by_canonical) for c, n in names.items() if _any(ignored, n)}
    own = {c: n for c, n in stored.items() if c not in left_out}
    wanted = {c: n for c, n in base.by_canonical.items() if c not in left_out}
    tied = tied_names(base)
    _check_still_tied(checkpoint, name, base, own)
    missing = [n for c, n in wanted.items() if c not in own and c not in tied]
    extra = [n for c, n in own.items() if c not in wanted and c not in tied]
    if missing:
        raise _mismatch("lacks", missing, checkpoint, name)
    if extra:
        raise _mismatch("has, and the base has not,", extra, checkpoint, name)
    matched = {}
    for canonical in wanted:
        if canonical not in own:
            continue
        ours, theirs = base.info(wanted[canonical]), checkpoint.tensors[own[canonical]]
        if ours.shape != theirs.shape:
            raise _other_shape(ours, theirs, name, base)
        matched[ours.name] = theirs.name
    return matched


def _check_still_tied(checkpoint: Checkpoint, name: str, base: Base, own: Mapping[str, str]) -> None:
    """Refuses an expert that stores two values for what is one parameter of the base."""
    for alias, source in base.architecture.tied(base.checkpoint.config or {}):
        if alias not in tied_names(base) or alias not in own or source not in own:
            continue
        if not _look_same(checkpoint, own[alias], own[source]):
            raise CheckpointError(
                f"expert {name!r} has untied {own[alias]} from {own[source]}",
                where=checkpoint.path,
                expected="one value for both, as in the base",
                hint=f"to leave its own out, write in the recipe: ignore: ['^{re.escape(own[alias])}$']",
            )


def _match_adapter(
    adapter: Adapter, spec: Expert, base: Base, ignored: Iterable[re.Pattern[str]]
) -> dict[str, str]:
    """The base's tensor → the adapter's target; refuses targets the base lacks."""
    _check_adapters_base(adapter, spec, base)
    shapes: dict[str, tuple[int, ...]] = {}
    matched: dict[str, str] = {}
    sources = dict(base.architecture.tied(base.checkpoint.config or {}))
    for target in adapter.targets:
        canonical = base.architecture.canonical(target)
        canonical = canonical if canonical in base.by_canonical else sources.get(canonical, canonical)
        stored = base.by_canonical.get(canonical)
        if stored is not None:
            shapes[target] = base.info(stored).shape
            if not _any(ignored, stored):
                matched[stored] = target
    adapter.check_shapes(shapes)
    return matched


def _check_adapters_base(adapter: Adapter, spec: Expert, base: Base) -> None:
    """Refuses an adapter that names another hub model than the base given; local paths can't be compared."""
    theirs, ours = adapter.base_model_name, base.checkpoint.ref.partition("@")[0]
    recorded = (base.checkpoint.config or {}).get("_name_or_path") or ours
    comparable = theirs is not None and looks_like_hub_id(theirs) and looks_like_hub_id(recorded)
    if spec.any_base or not comparable or theirs in (ours, recorded):
        return
    raise AdapterError(
        "the adapter was trained on another base",
        where=adapter.path,
        got=theirs,
        expected=recorded,
        hint="use that base; or, if you know it is the same model, write {model: …, any_base: true}",
    )


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


def _mismatch(verb: str, names: list[str], checkpoint: Checkpoint, expert: str) -> CheckpointError:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    pattern = "^" + re.escape(names[0]) + "$"
    return CheckpointError(
        f"expert {expert!r} {verb} {len(names)} tensor{'s' if len(names) > 1 else ''}: {shown}",
        where=checkpoint.path,
        expected="exactly the base's tensors",
        hint=f"if it may be disregarded, write in the recipe: ignore: ['{pattern}']",
    )


def _other_shape(ours: TensorInfo, theirs: TensorInfo, expert: str, base: Base) -> CheckpointError:
    kind = base.architecture.role(ours.name, ours.shape).kind
    vocabulary = kind in ("embedding", "head") and ours.shape[1:] == theirs.shape[1:]
    hint = (
        "the vocabularies differ: resize the expert's embeddings to the base's tokenizer and save it again"
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


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    if checkpoint.config and checkpoint.config.get("quantization_config"):
        raise CheckpointError(
            "the checkpoint is quantised",
            where=checkpoint.path,
            got=checkpoint.config["quantization_config"].get("quant_method", "quantization_config"),
            expected="float32, bfloat16 or float16 weights",
            hint="merge the unquantised checkpoints and quantise the result",
        )


def _any(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.search(name) for pattern in patterns)


def _no_change(shape: tuple[int, ...]) -> Delta:
    if len(shape) < 2:
        return Dense(torch.zeros(shape))
    columns = 1
    for length in shape[1:]:
        columns *= length
    return LowRank(torch.zeros(shape[0], 0), torch.zeros(0, columns), shape if len(shape) > 2 else None)
