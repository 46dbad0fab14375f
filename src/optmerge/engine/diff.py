"""How two checkpoints, or two adapters, differ: names, types, shapes, values, settings, tokens.

Tensors are read a block at a time and compared in float64. Checkpoints meet by stored names, then by
canonical ones, so that files of transformers 4 and 5 meet. Adapters meet by target: what counts is the
change up · down that their factors make, not the factors.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.architectures import Architecture, resolve
from optmerge.checkpoints.adapters import Adapter, AdapterTensor, TargetPiece, open_model
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.checkpoints.reader import Reader
from optmerge.checkpoints.tokenizer_files import read_tokenizer
from optmerge.deltas import LowRank
from optmerge.engine.planning.configs import differences
from optmerge.engine.running.pool import Pool
from optmerge.errors import CheckpointError

BLOCK_ELEMENTS = 1 << 18

PRODUCT = "product"
"""In the place of a type: the change up · down of an adapter."""


class Status(StrEnum):
    """How two tensors of one name compare."""

    EQUAL = "equal"
    VALUES = "values"
    """Other values, of one type and shape."""
    DTYPE = "dtype"
    """Another type; `changed` says whether the values differ, too."""
    SHAPE = "shape"
    ONLY_A = "only a"
    ONLY_B = "only b"


@dataclass(frozen=True)
class Side:
    """One model's tensor.

    Args:
        name: as its file has it.
        shape: its shape.
        dtype: safetensors type, or `product` for the change that an adapter's factors make.
        norm: Euclidean norm of its finite entries.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float


@dataclass(frozen=True)
class TensorDifference:
    """How a tensor of A and the same tensor of B compare.

    Args:
        name: A's name; B's where A has no such tensor; of an adapter the target's, with the part of it.
        component: part of the model; `adapter` for an adapter's.
        kind: what it does there; of an adapter's tensor the kind of its target.
        status: the verdict.
        a: A's tensor; None where A has none.
        b: B's tensor; None where B has none.
        changed: entries whose values differ, NaN being equal to NaN; None where shapes aren't the same.
        largest: max |B − A|; None where that isn't finite, or shapes aren't the same.
        relative: ‖B − A‖/‖A‖; None where that isn't finite, where ‖A‖ is 0, or shapes aren't the same.
    """

    name: str
    component: str
    kind: str
    status: Status
    a: Side | None
    b: Side | None
    changed: int | None = None
    largest: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Setting:
    """A setting of the two configs that means another thing, or the number of tokens that do.

    Args:
        key: name of the setting.
        a: A's value; None where A has none.
        b: B's value.
    """

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Difference:
    """How two models compare.

    Args:
        a: A as it was given.
        b: B as it was given.
        kind: `checkpoint` or `adapter`.
        tensors: of both, those that differ most first.
        config: settings of another meaning, in the spelling of transformers 5.
        tokens: how many ids stand for other tokens, or for a token in one model alone; None where a model has
            no tokenizer.json.
    """

    a: str
    b: str
    kind: str
    tensors: tuple[TensorDifference, ...]
    config: tuple[Setting, ...]
    tokens: int | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs: tensors, types, shapes, values, settings, tokens."""
        return not (self.config or self.tokens or any(each.status != "equal" for each in self.tensors))

    def counts(self) -> dict[str, int]:
        """How many tensors have each status."""
        found = Counter(each.status for each in self.tensors)
        return {status.value: found[status] for status in Status}

    def plain(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"equal": self.equal, "counts": self.counts(), **asdict(self)}


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compares two checkpoints, or two adapters; reads every tensor of both, a block at a time.

    Args:
        a: a folder, a .safetensors file, or a hub id; what differences are relative to.
        b: the same of the other.

    Raises:
        InputError: one can't be read, or a checkpoint is compared with an adapter.
    """
    models = open_model(a), open_model(b)
    first, second = models
    with ExitStack() as stack:
        if isinstance(first, Checkpoint) and isinstance(second, Checkpoint):
            kind, pairs = "checkpoint", _checkpoint_pairs(first, second, stack)
            settings = [Setting(*asdict(each).values()) for each in differences(first.config, second.config)]
        elif isinstance(first, Adapter) and isinstance(second, Adapter):
            kind, pairs, settings = "adapter", _adapter_pairs(first, second, stack), []
        else:
            raise _unlike(models)
        found: dict[int, TensorDifference] = {}
        with Pool() as pool:
            pool.each(lambda item: found.__setitem__(item[0], _compared(item[1])), enumerate(pairs))
    tensors = sorted((found[index] for index in range(len(pairs))), key=_order)
    return Difference(str(a), str(b), kind, tuple(tensors), tuple(settings), _other_tokens(*models))


def _unlike(models: Sequence[Checkpoint | Adapter]) -> CheckpointError:
    adapter = next(each for each in models if isinstance(each, Adapter))
    return CheckpointError(
        "an adapter and a checkpoint can't be compared",
        where=adapter.path,
        got="an adapter",
        expected="two checkpoints, or two adapters",
        hint=f"make a checkpoint of the adapter first: optmerge merge --base BASE --expert {adapter.ref} "
        "--method average --out DIR",
    )


_STATUS_ORDER = (Status.ONLY_A, Status.ONLY_B, Status.SHAPE, Status.DTYPE, Status.VALUES, Status.EQUAL)


def _order(each: TensorDifference) -> tuple[int, float, str]:
    """What is missing first, then by how much it differs; where that is no number, before all numbers."""
    amount = math.inf if each.relative is None and each.changed else (each.relative or 0.0)
    return _STATUS_ORDER.index(each.status), -amount, each.name


@dataclass(frozen=True)
class _Place:
    """A tensor of a model, and how to read it.

    Args:
        name: in its file.
        shape: its shape.
        dtype: its type.
        blocks: reads it from the start, flat, in blocks that its shape alone decides.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class _Pair:
    """What is compared: A's tensor, and B's."""

    name: str
    component: str
    kind: str
    a: _Place | None
    b: _Place | None


def _checkpoint_pairs(a: Checkpoint, b: Checkpoint, stack: ExitStack) -> list[_Pair]:
    rules = resolve(a.config, a.tensors), resolve(b.config, b.tensors)
    readers = stack.enter_context(a.reader()), stack.enter_context(b.reader())
    names = _same_names(a, b, *rules)
    pairs = []
    for own, other in [*names, *((None, name) for name in _left(b, {other for _, other in names}))]:
        model, rule, name = (a, rules[0], own) if own is not None else (b, rules[1], other or "")
        role = rule.role(name, model.tensors[name].shape)
        places = _stored(a, own, readers[0]), _stored(b, other, readers[1])
        pairs.append(_Pair(name, role.component, role.kind, *places))
    return pairs


def _same_names(
    a: Checkpoint, b: Checkpoint, ours: Architecture, theirs: Architecture
) -> list[tuple[str, str | None]]:
    """Each tensor of A with B's name of it, or None: by stored name, by canonical name, or by a tie."""
    free = {theirs.canonical(name): name for name in _left(b, a.tensors)}
    ties = {theirs.canonical(alias): source for alias, source in theirs.tied(b.config or {})}
    stored = {theirs.canonical(name): name for name in b.tensors}
    found: list[tuple[str, str | None]] = []
    for name in a.tensors:
        canonical = ours.canonical(name)
        other = name if name in b.tensors else free.pop(canonical, None)
        if other is None and canonical in ties:
            other = stored.get(theirs.canonical(ties[canonical]))
        found.append((name, other))
    known = {ours.canonical(name): name for name in a.tensors}
    for alias, source in ours.tied(a.config or {}):  # what only B stores, and A's config ties
        if ours.canonical(alias) in free and ours.canonical(source) in known:
            found.append((known[ours.canonical(source)], free.pop(ours.canonical(alias))))
    return found


def _left(model: Checkpoint, taken: Iterable[str | None]) -> list[str]:
    others = set(taken)
    return [name for name in model.tensors if name not in others]


def _stored(
    model: Checkpoint | Adapter, name: str | None, reader: Reader, factor: float = 1.0
) -> _Place | None:
    """A tensor as its file has it, times a factor."""
    if name is None:
        return None
    info = model.tensors[name]

    def blocks() -> Iterator[Tensor]:
        for start in range(0, info.numel, BLOCK_ELEMENTS):
            block = reader.read_flat(name, start, min(info.numel, start + BLOCK_ELEMENTS))
            yield block if factor == 1 else block.double() * factor

    return _Place(name, info.shape, info.dtype, blocks)


def _adapter_pairs(a: Adapter, b: Adapter, stack: ExitStack) -> list[_Pair]:
    readers = stack.enter_context(a.reader()), stack.enter_context(b.reader())
    products = {
        name
        for name in {*a.targets, *b.targets}
        if all(_is_product(model.targets[name]) for model in (a, b) if name in model.targets)
    }
    sides = [
        {**_products(model, products), **_parts(model, products, reader)}
        for model, reader in zip((a, b), readers, strict=True)
    ]
    kinds = {name: kind for side in reversed(sides) for name, (kind, _) in side.items()}
    nothing = ("", None)
    return [
        _Pair(name, "adapter", kinds[name], *(side.get(name, nothing)[1] for side in sides))
        for name in dict.fromkeys([*sides[0], *sides[1]])
    ]


def _is_product(target: AdapterTensor) -> bool:
    """Whether a target is plain factors, whose product needs no base."""
    return target.kind == "lora" and target.parts.keys() == {"down", "up"}


def _products(adapter: Adapter, names: Iterable[str]) -> dict[str, tuple[str, _Place]]:
    """The change up · down of each of these targets that the adapter has."""
    return {
        name: ("lora", _Place(name, adapter.targets[name].shape, PRODUCT, _product_blocks(adapter, name)))
        for name in sorted(names)
        if name in adapter.targets
    }


def _product_blocks(adapter: Adapter, name: str) -> Callable[[], Iterator[Tensor]]:
    target = adapter.targets[name]

    def no_base() -> Tensor:
        raise AssertionError("plain factors need no base")

    def stack() -> Iterator[Tensor]:
        for expert in range(target.shape[0]):
            yield adapter.piece_delta(TargetPiece(name), (expert, expert + 1)).dense().flatten()

    def matrix() -> Iterator[Tensor]:
        delta = adapter.delta(name, no_base)
        assert isinstance(delta, LowRank)
        up, down = delta.up.double(), delta.down.double()
        step = max(1, BLOCK_ELEMENTS // max(1, down.shape[1]))
        for start in range(0, up.shape[0], step):
            yield (up[start : start + step] @ down).flatten()

    return stack if target.stacked and len(target.shape) == 3 else matrix


def _parts(adapter: Adapter, products: set[str], reader: Reader) -> dict[str, tuple[str, _Place]]:
    """What isn't a product, as stored: magnitudes, trained modules, what lies beside the adapter."""
    factored = {name for name, target in adapter.targets.items() if name in products}
    own = {info.name for name in factored for info in adapter.targets[name].parts.values()}
    found: dict[str, tuple[str, _Place]] = {}
    for target in adapter.targets.values():
        for part, info in target.parts.items():
            scaled = part in ("up", "bias")
            place = _stored(adapter, info.name, reader, target.scaling if scaled else 1.0)
            if target.name not in factored and place is not None:
                found[f"{target.name} ({part})"] = (target.kind, place)
                own.add(info.name)
    for name in sorted(adapter.tensors.keys() - own):
        place = _stored(adapter, name, reader)
        if place is not None:
            found[name] = ("beside", place)
    return found


def _compared(pair: _Pair) -> TensorDifference:
    """Both tensors read, side by side where they have one shape."""
    a, b = pair.a, pair.b
    if a is None or b is None or a.shape != b.shape:
        status = Status.ONLY_B if a is None else Status.ONLY_A if b is None else Status.SHAPE
        return TensorDifference(pair.name, pair.component, pair.kind, status, _side(a), _side(b))
    sums = _Sums([], [], [])
    for ours, theirs in zip(a.blocks(), b.blocks(), strict=True):
        sums = sums.with_block(ours, theirs)
    lengths = [math.sqrt(math.fsum(each)) for each in (sums.a, sums.b, sums.gap)]
    finite = math.isfinite(sums.largest)
    return TensorDifference(
        pair.name,
        pair.component,
        pair.kind,
        Status.DTYPE if a.dtype != b.dtype else Status.VALUES if sums.changed else Status.EQUAL,
        Side(a.name, a.shape, a.dtype, lengths[0]),
        Side(b.name, b.shape, b.dtype, lengths[1]),
        changed=sums.changed,
        largest=sums.largest if finite else None,
        relative=_ratio(lengths[2], lengths[0]) if finite else None,
    )


def _ratio(length: float, whole: float) -> float | None:
    """length/whole; None where something is measured by nothing."""
    return 0.0 if not length else length / whole if whole else None


def _side(place: _Place | None) -> Side | None:
    """A tensor that has no counterpart of its shape."""
    if place is None:
        return None
    squares = [_squares(_wide(block)) for block in place.blocks()]
    return Side(place.name, place.shape, place.dtype, math.sqrt(math.fsum(squares)))


@dataclass(frozen=True)
class _Sums:
    """ΣA², ΣB² and Σ(B − A)² of each block read so far, entries that differ, the largest gap."""

    a: list[float]
    b: list[float]
    gap: list[float]
    changed: int = 0
    largest: float = 0.0

    def with_block(self, ours: Tensor, theirs: Tensor) -> _Sums:
        """These sums and those of one more block."""
        first, second = _wide(ours), _wide(theirs)
        squares = _squares(first)
        if ours.dtype == theirs.dtype and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
            return replace(self, a=[*self.a, squares], b=[*self.b, squares])
        same = _same(ours, theirs, first, second)
        gap = torch.where(same, 0.0, second - first).abs()
        largest = float(gap.max())
        return _Sums(
            [*self.a, squares],
            [*self.b, _squares(second)],
            [*self.gap, float(gap @ gap)],
            self.changed + int((~same).sum()),
            max(self.largest, math.inf if math.isnan(largest) else largest),
        )


def _same(ours: Tensor, theirs: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Which entries have one value; whole numbers as such, since float64 doesn't hold all of them."""
    if ours.dtype == theirs.dtype and not (ours.is_floating_point() or ours.is_complex()):
        return ours == theirs
    return (first == second) | (first.isnan() & second.isnan())


def _wide(block: Tensor) -> Tensor:
    """The entries in float64, or in complex128."""
    return block.to(torch.complex128 if block.is_complex() else torch.float64)


def _squares(values: Tensor) -> float:
    """Σ|x|² over the finite entries."""
    sizes = values.abs()
    total = float(sizes @ sizes)
    return total if math.isfinite(total) else float(sizes[torch.isfinite(sizes)].square().sum())


def _other_tokens(a: Checkpoint | Adapter, b: Checkpoint | Adapter) -> int | None:
    folders = [each.folder if isinstance(each, Checkpoint) else each.path for each in (a, b)]
    ours, theirs = (read_tokenizer(folder) for folder in folders)
    if ours is None or theirs is None:
        return None
    ids = {*ours.tokens, *theirs.tokens}
    return sum(ours.tokens.get(index) != theirs.tokens.get(index) for index in ids)


@dataclass(frozen=True)
class Part:
    """The tensors of a component and kind that both models have in one shape.

    Args:
        component: part of the model.
        kind: what they do there.
        tensors: how many.
        differ: how many have other values or types.
        relative: ‖B − A‖/‖A‖ over all of them; None where that is no number.
        largest: max |B − A|; None where that isn't finite.
    """

    component: str
    kind: str
    tensors: int
    differ: int
    relative: float | None
    largest: float | None


def parts(tensors: Iterable[TensorDifference]) -> list[Part]:
    """Sums by component and kind, those that differ most first."""
    groups: Mapping[tuple[str, str], list[TensorDifference]] = defaultdict(list)
    for each in tensors:
        if each.changed is not None:
            groups[each.component, each.kind].append(each)
    return sorted(
        (_part(*key, group) for key, group in groups.items()), key=lambda each: -_amount(each.relative)
    )


def _amount(relative: float | None) -> float:
    return math.inf if relative is None else relative


def _part(component: str, kind: str, group: Sequence[TensorDifference]) -> Part:
    whole = math.fsum(each.a.norm**2 for each in group if each.a)
    gaps = [each.relative and (each.relative * each.a.norm) ** 2 for each in group if each.a]
    known = [gap for gap in gaps if gap is not None]
    largest = [each.largest for each in group]
    total = math.fsum(known)
    unknown = len(known) < len(gaps)
    return Part(
        component,
        kind,
        len(group),
        sum(each.status is not Status.EQUAL for each in group),
        None if unknown else _ratio(math.sqrt(total), math.sqrt(whole)),
        None if None in largest else max((each for each in largest if each is not None), default=0.0),
    )
