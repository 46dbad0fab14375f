"""Adapters and the base: which tensor of the base each target changes, or what doesn't meet.

An adapter names parameters as they are in memory. The base's file may name them otherwise (canonical names
meet), keep the experts of a stack one by one, or hold the text model that the adapter was trained on inside
a larger model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optmerge.checkpoints.adapter_config import CONVERT
from optmerge.checkpoints.adapter_tensors import AdapterTensor, TargetPiece, inner_name
from optmerge.checkpoints.adapters import Adapter
from optmerge.checkpoints.hub import names_hub_model
from optmerge.checkpoints.safetensors_format import Header
from optmerge.engine.planning.ends import tied_pairs
from optmerge.engine.planning.inputs import Base
from optmerge.errors import AdapterError
from optmerge.recipe import Expert

JOINED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3"), ("fc1", "fc3")),
    "down_proj": (("down_proj",), ("w2",), ("fc2",)),
}
"""What transformers joins to a stack, by the last part of the stack's name: the parts in the order in which
their outputs follow each other, in each of the names that files use."""

_HEAD = "lm_head.weight"
_NUMBERED = re.compile(r"^(.*?)\w+\.\d+\.")

Ignored = Sequence[re.Pattern[str]]


def match_adapter(
    adapter: Adapter,
    spec: Expert,
    base: Base,
    ignored: Iterable[re.Pattern[str]],
    by_token: frozenset[str] = frozenset(),
) -> dict[str, TargetPiece]:
    """The base's tensor → where in the adapter its change is; refuses targets that the base lacks.

    Args:
        adapter: the adapter, with what lies beside it (`with_beside`).
        spec: the expert, as the recipe has it.
        base: the base.
        ignored: patterns of tensors of the base that the adapter is read without.
        by_token: tensors of the base whose rows meet the adapter's by token, and needn't be as many.

    Raises:
        AdapterError: the adapter was trained on another base, or a target doesn't fit.
    """
    _check_adapters_base(adapter, spec, base)
    patterns = tuple(ignored)
    tied = dict(tied_pairs(base))
    wanted = sorted(
        adapter.targets.values(), key=lambda target: base.architecture.canonical(target.name) in tied
    )
    places = {target.name: _places(target, target.name, base) for target in wanted}
    lost = [target.name for target in wanted if not places[target.name]]
    if lost:
        raise _unknown(lost, len(wanted), adapter, base)
    kept = [
        (adapter.targets[name], _with_rows_of(adapter.targets[name], place, by_token))
        for name, found in places.items()
        for place in found
        if not _any(patterns, place.stored)
    ]
    return _checked(adapter, base, kept)


def in_the_bases_names(adapter: Adapter, base: Base) -> tuple[Adapter, tuple[str, str] | None]:
    """An adapter of a model of text alone, or of a model around that, with its targets in the base's names.

    `model.layers.0…` for a base with `model.language_model.layers.0…`, and the other way round. All targets
    of one beginning must be found, in shape too, behind one other beginning of the language model.

    Returns:
        The adapter, and one target's name before and after; None where nothing had to be renamed.
    """
    unmet = [target for target in adapter.targets.values() if not _places(target, target.name, base)]
    names = dict(_names_in_the_base(unmet, base))
    clash = names.keys() and (set(names.values()) & (adapter.targets.keys() - names.keys()))
    if not names or clash:
        return adapter, None
    targets = {
        names.get(name, name): replace(target, name=names.get(name, name))
        for name, target in adapter.targets.items()
    }
    return replace(adapter, targets=dict(sorted(targets.items()))), next(iter(names.items()))


@dataclass(frozen=True)
class _Place:
    """A tensor of the base that a target changes.

    Args:
        stored: its name in the base's file.
        shape: its shape.
        expert: index in the stack, where the base stores the experts one by one.
        rows: first and last-plus-one output of the target, where the base stores parts of it.
    """

    stored: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None


def _with_rows_of(target: AdapterTensor, place: _Place, by_token: frozenset[str]) -> _Place:
    """The place with as many rows as the target has, where rows meet by token."""
    if place.stored not in by_token:
        return place
    return replace(place, shape=(*target.shape[:1], *place.shape[1:]))


def _places(target: AdapterTensor, name: str, base: Base) -> list[_Place]:
    """Where a target lies in the base, if it has that name; nothing where the base has no such parameter."""
    canonical = base.architecture.canonical(name)
    stored = base.by_canonical.get(dict(tied_pairs(base)).get(canonical, canonical))
    if stored is not None:
        return [_Place(stored, base.info(stored).shape)]
    if not target.stacked or len(target.shape) != 3:
        return []
    module, _, parameter = canonical.rpartition(".")
    for parts in JOINED.get(parameter, ()):
        found = list(_one_by_one(module, parts, target.shape[0], base))
        if found:
            return found
    return []


def _one_by_one(module: str, parts: Sequence[str], experts: int, base: Base) -> Iterator[_Place]:
    """Matrices of experts that are stored one by one, and in parts; nothing where one is missing."""
    names = [f"{module}.{expert}.{part}.weight" for expert in range(experts) for part in parts]
    stored = [base.by_canonical.get(base.architecture.canonical(name)) for name in names]
    beyond = base.by_canonical.get(base.architecture.canonical(f"{module}.{experts}.{parts[0]}.weight"))
    if None in stored or beyond is not None:
        return
    begin = 0
    for index, name in enumerate(filter(None, stored)):
        expert, part = divmod(index, len(parts))
        shape = base.info(name).shape
        begin = 0 if part == 0 else begin
        yield _Place(name, shape, expert, (begin, begin + shape[0]))
        begin += shape[0]


def _names_in_the_base(targets: Sequence[AdapterTensor], base: Base) -> Iterator[tuple[str, str]]:
    """Names of targets, and those that the base's language model has for them."""
    ours = sorted(
        {
            match[1]
            for canonical, stored in base.by_canonical.items()
            if (match := _NUMBERED.match(canonical))
            and base.architecture.role(stored, base.info(stored).shape).component == "language"
        }
    )
    theirs = {match[1] for target in targets if (match := _NUMBERED.match(target.name))}
    for start in sorted(theirs, key=len, reverse=True):
        group = [target for target in targets if target.name.startswith(start)]
        targets = [target for target in targets if not target.name.startswith(start)]
        choices = [
            names
            for other in ours
            if _all_fit(group, names := [other + each.name.removeprefix(start) for each in group], base)
        ]
        if len(choices) == 1:
            yield from ((target.name, name) for target, name in zip(group, choices[0], strict=True))
            yield from ((target.name, _HEAD) for target in targets if target.name.endswith(f".{_HEAD}"))


def _all_fit(targets: Sequence[AdapterTensor], names: Sequence[str], base: Base) -> bool:
    found = [(target, _places(target, name, base)) for target, name in zip(targets, names, strict=True)]
    return all(places and all(_fits(target, place) for place in places) for target, places in found)


def _fits(target: AdapterTensor, place: _Place) -> bool:
    if place.expert is not None or (target.stacked and len(place.shape) == 3):
        return bool(_orientations(target, place))
    return target.orientation(place.shape) is not None


def _orientations(target: AdapterTensor, place: _Place) -> list[bool]:
    """In which ways, (outputs, inputs) or (inputs, outputs), a stack's factors fit; see `TargetPiece`."""
    if place.expert is None:
        outputs, inputs = target.shape[1:]
        fits = {False: (target.shape[0], outputs, inputs), True: (target.shape[0], inputs, outputs)}
        return [flipped for flipped, shape in fits.items() if shape == place.shape]
    assert place.rows is not None and len(target.shape) == 3
    # A stack of another orientation in memory is unstacked into (outputs, inputs) all the same.
    sides = {False: target.shape[1:], True: target.shape[:0:-1]}
    return [
        flipped
        for flipped, (outputs, inputs) in sides.items()
        if len(place.shape) == 2 and place.shape[1] == inputs and place.rows[1] <= outputs
    ]


def _checked(
    adapter: Adapter, base: Base, kept: Sequence[tuple[AdapterTensor, _Place]]
) -> dict[str, TargetPiece]:
    """Pieces, once shapes fit and orientations are known and no tensor is changed twice."""
    stacks = {
        place.stored: _orientations(target, place)
        for target, place in kept
        if place.expert is not None or (target.stacked and len(target.shape) == 3)
    }
    known = {found[0] for found in stacks.values() if len(found) == 1}
    matched: dict[str, TargetPiece] = {}
    tied = dict(tied_pairs(base))
    for target, place in kept:
        if place.stored in matched and base.architecture.canonical(target.name) in tied:
            continue  # whether a head's change is the embedding's is decided where both are selected
        if place.stored in matched:
            raise AdapterError(
                "two targets of the adapter are the same parameter",
                where=adapter.file,
                got=f"{matched[place.stored].target} and {target.name}",
                expected=f"one change of {place.stored}",
                hint=f"to leave one out, write in the recipe: ignore: ['^{re.escape(target.name)}$']",
            )
        transposed = False
        if place.stored in stacks:
            if not stacks[place.stored]:
                raise adapter.misfit(target, place.shape)
            transposed = _settled(adapter, target, place, stacks[place.stored], known, base)
        matched[place.stored] = TargetPiece(target.name, place.expert, place.rows, transposed)
    whole = {target.name: place.shape for target, place in kept if place.stored not in stacks}
    adapter.check_shapes(whole)
    _check_whole(adapter, kept)
    return matched


def _settled(
    adapter: Adapter,
    target: AdapterTensor,
    place: _Place,
    fitting: Sequence[bool],
    known: Collection[bool],
    base: Base,
) -> bool:
    """The orientation of a stack: by its shape, else (square) by other stacks, else by the architecture."""
    if len(fitting) == 1:
        return fitting[0]
    if len(known) == 1:
        return next(iter(known))
    if not known and place.expert is not None:
        return False  # a linear layer, (outputs, inputs) in every file
    if not known and not base.architecture.generic:
        return base.architecture.role(place.stored, place.shape).transposed
    raise AdapterError(
        f"{target.name}: its orientation is unknown",
        where=adapter.file,
        got=f"square matrices, {list(place.shape)}, in a family that isn't declared",
        hint=CONVERT,
    )


def _check_whole(adapter: Adapter, kept: Iterable[tuple[AdapterTensor, _Place]]) -> None:
    """Refuses a stack whose parts in the base's file have other sizes than the target."""
    last: dict[tuple[str, int], tuple[int, AdapterTensor, _Place]] = {}
    for target, place in kept:
        if place.expert is not None and place.rows is not None:
            last[target.name, place.expert] = (place.rows[1], target, place)
    for outputs, target, place in last.values():
        if outputs not in target.shape[1:]:
            raise adapter.misfit(target, (outputs, *place.shape[1:]))


def with_beside(adapter: Adapter, base: Base, ignored: Ignored) -> Adapter:
    """The adapter without targets that are ignored, and with what was trained in full beside it as targets.

    Raises:
        AdapterError: a tensor beside the adapter is none of the base's, or the adapter changes it, too.
    """
    targets = {name: target for name, target in adapter.targets.items() if not _any(ignored, name)}
    for file, header in adapter.beside.items():
        targets |= _beside_targets(file, header, targets, base, ignored)
    return replace(adapter, targets=dict(sorted(targets.items())))


def _beside_targets(
    file: Path, header: Header, targets: Mapping[str, AdapterTensor], base: Base, ignored: Ignored
) -> dict[str, AdapterTensor]:
    canonical = base.architecture.canonical
    taken = {canonical(name): name for name in targets}
    leave_out = f"to leave the file out, write in the recipe: ignore: ['^{re.escape(file.name)}$']"
    found: dict[str, AdapterTensor] = {}
    for key, info in header.tensors.items():
        name = inner_name(key)
        if _any(ignored, name):
            continue
        if canonical(name) in taken or ".lora_" in name:
            raise AdapterError(
                "another model lies beside the adapter, and what the adapter changes is in both",
                where=file,
                got=taken.get(canonical(name), name),
                expected="an adapter and, beside it, only what it doesn't hold",
                hint=f"move one of the two into a folder of its own, or, {leave_out}",
            )
        if canonical(name) not in base.by_canonical:
            raise AdapterError(
                "weights lie beside the adapter that the base has no tensors for",
                where=file,
                got=key,
                expected=_similar(name, base),
                hint=f"rename them as in the base if they belong to the merge; {leave_out}",
            )
        taken[canonical(name)] = name
        found[name] = AdapterTensor(name, "full", info.shape, None, 1.0, False, False, {"full": info})
    return found


def _check_adapters_base(adapter: Adapter, spec: Expert, base: Base) -> None:
    """Refuses an adapter that names another hub model than the base given; local paths can't be compared."""
    theirs, ours = adapter.base_model_name, base.checkpoint.ref.partition("@")[0]
    recorded = (base.checkpoint.config or {}).get("_name_or_path") or ours
    local = theirs is None or not names_hub_model(theirs) or (adapter.path / theirs).exists()
    comparable = not local and names_hub_model(recorded)
    if spec.any_base or not comparable or theirs in (ours, recorded):
        return
    raise AdapterError(
        "the adapter was trained on another base",
        where=adapter.path,
        got=theirs,
        expected=recorded,
        hint="use that base; or, if you know it is the same model, write {model: …, any_base: true}",
    )


def _unknown(lost: Sequence[str], wanted: int, adapter: Adapter, base: Base) -> AdapterError:
    """The refusal of targets that are no parameters of the base."""
    more = f" and {len(lost) - 1} more of its {wanted} targets" if len(lost) > 1 else ""
    hint = f"if it may be left out, write in the recipe: ignore: ['^{re.escape(lost[0])}$']"
    if 2 * len(lost) >= wanted:
        hint = f"compare the names by `optmerge inspect`; where the models are the same, {CONVERT}"
    return AdapterError(
        f"the base has no {lost[0]}{more}",
        where=adapter.file,
        got=lost[0],
        expected=_similar(lost[0], base),
        hint=hint,
    )


def _similar(name: str, base: Base) -> str:
    """Names of the base to compare a name with: those with the same last parts, else any."""
    parts = name.split(".")
    for count in (4, 3, 2, 1):
        tail = ".".join(parts[-count:])
        near = [canonical for canonical in base.by_canonical if canonical.endswith(tail)]
        if near:
            return f"a name such as {near[0]}"
    return f"a name such as {next(iter(base.by_canonical), 'none')}"


def _any(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.search(name) for pattern in patterns)
