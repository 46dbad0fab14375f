"""The plan of a merge: what happens to every tensor, and what it costs. Plain data, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from optmerge.architectures import Way
from optmerge.checkpoints.shards import Shard
from optmerge.methods import AutoRule, Layout, Method, ModifierUse, get
from optmerge.recipe import Recipe

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""Types of tensors that can be merged."""


@dataclass(frozen=True)
class MethodUse:
    """A method with everything decided.

    Args:
        name: name of the method.
        parameters: complete, no `auto` left.
        scale: factor on the merged delta; `auto` where it is chosen from the deltas, in the run.
        weights: one per expert.
        auto: rule of that choice; None where the scale is given.
        strength: factor on what the rule chooses; 1 where the scale is given, which holds it already.
        depth: factors on the scale over the model's depth, from the first layer to the last; empty where
            all layers have one.
        modifiers: around the method, each around what stands before it.
    """

    name: str
    parameters: Mapping[str, Any]
    scale: float | Literal["auto"]
    weights: tuple[float, ...]
    auto: AutoRule | None = None
    strength: float = 1.0
    depth: tuple[float, ...] = ()
    modifiers: tuple[ModifierUse, ...] = ()

    @property
    def method(self) -> Method:
        """The method with its modifiers."""
        return get(self.name, self.modifiers)

    @property
    def label(self) -> str:
        """Names of the method and its modifiers, as a recipe writes them together."""
        return self.method.name

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Parameters of the method and, under MODIFIER.NAME, of its modifiers."""
        of_modifiers = {
            f"{use.name}.{key}": value for use in self.modifiers for key, value in use.parameters.items()
        }
        return {**self.parameters, **of_modifiers}

    def plain(self) -> dict[str, Any]:
        """The method as JSON-ready data; `with` and `depth` where there are any."""
        found = asdict(self)
        depth, modifiers = list(found.pop("depth")), list(found.pop("modifiers"))
        return found | ({"depth": depth} if depth else {}) | ({"with": modifiers} if modifiers else {})

    def factor(self, depth: float | None) -> float:
        """Factor on the scale of a tensor.

        Args:
            depth: of its layer, 0 for the first and 1 for the last; None outside of layers.
        """
        if not self.depth:
            return 1.0
        place = (depth or 0.0) * (len(self.depth) - 1)
        index = min(int(place), len(self.depth) - 2)
        low, high = self.depth[index : index + 2]
        return low + (high - low) * (place - index)


class Action(StrEnum):
    """What happens to a tensor."""

    MERGE = "merge"
    COPY = "copy"
    ALIAS = "alias"
    """The tensor is another one under a second name, and isn't written."""


PARAMETER_KINDS = frozenset({"matrix", "embedding", "head", "norm", "router"})
"""Kinds of tensors that are never constants: a NaN or an infinity in one of these means a damaged file."""


class Cause(StrEnum):
    """Why a tensor has its action, as a template of the words for it."""

    SELECTED = "selected"
    RULE_MERGES = "rule {rule}"
    RULE_COPIES = "rule {rule}: copied from {about}"
    TIED = "tied to {about}"
    EMPTY = "empty"
    NOT_FLOATING = "not floating-point ({about})"
    UNCHANGED = "no expert changes it"
    SCALE_0 = "scale 0"
    OTHER_COMPONENT = "component {about} is not selected"
    OTHER_KIND = "kind {about} is not selected"
    OTHER_NAME = "left out by include/exclude"


@dataclass(frozen=True)
class Reason:
    """Why a tensor has its action.

    Args:
        cause: what decided.
        rule: index of the rule that matched the tensor, whatever came of it; None where `select` decided.
        about: what the cause speaks of: a model, a tensor, a component, a kind or a type.
    """

    cause: Cause
    rule: int | None = None
    about: str = ""

    @property
    def words(self) -> str:
        """The reason for people and for JSON, as in `rule 1: copied from e0`."""
        return self.cause.format(rule=self.rule, about=self.about)


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor of the base.

    Args:
        name: as the base stores it, and as the output will.
        component: part of the model.
        kind: what it does there.
        shape: its shape.
        dtype: safetensors dtype in the base.
        out_dtype: safetensors dtype in the output.
        action: what is done.
        reason: why.
        method_index: index into `Plan.methods`, which is 0 for the recipe's own method and i + 1 for that of
            rule i; None where the tensor isn't merged. JSON calls it `group`.
        source: where it is copied from, or what it is an alias of.
        layout: how it holds matrices.
        depth: place of its layer among the layers of its stack, from 0 to 1; None outside of layers.
    """

    name: str
    component: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    out_dtype: str
    action: Action
    reason: Reason
    method_index: int | None
    source: str
    layout: Layout
    depth: float | None = None

    def plain(self) -> dict[str, Any]:
        """The tensor's plan as JSON-ready data."""
        return {
            "name": self.name,
            "component": self.component,
            "kind": self.kind,
            "shape": self.shape,
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "action": self.action.value,
            "reason": self.reason.words,
            "group": self.method_index,
            "source": self.source,
            "layout": self.layout,
        }


@dataclass(frozen=True)
class Cost:
    """Estimates.

    Args:
        bytes_read: from the inputs, passes of a survey included.
        bytes_written: of weights.
        peak_bytes: anonymous memory without a budget, beside the interpreter and its libraries: one slice or
            one whole tensor per core.
        peak_tensor: where that peak is reached.
        whole_tensor_bytes: what the largest tensor that isn't sliced needs alone; no budget can be below it.
        whole_tensor: its name.
        slice_bytes: what the largest slice needs.
        beside_bytes: what slices need beside themselves, however small they are: rows of new tokens, and what
            an adapter holds as whole tensors.
        flops: floating-point operations.
    """

    bytes_read: int
    bytes_written: int
    peak_bytes: int
    peak_tensor: str
    whole_tensor_bytes: int
    whole_tensor: str
    slice_bytes: int
    beside_bytes: int
    flops: float


@dataclass(frozen=True)
class Routed:
    """What a routed output holds beside the merged model: a part for every expert, and the router.

    Args:
        tensors: merged tensors that the parts change, in the order of the plan.
        left: merged tensors that no part changes.
        readers: merged tensors of the first layer that have one input, which the router reads.
        module: the module of the first of these, by its name in the model's class.
        width: of that input.
        directions: most directions of that input that the router keeps of each expert.
        weights: most weights of all parts and the router together.
        share: the same, as a share of the model's weights.
        nbytes: the same in bytes.
        threshold: sureness of the router below which the merge alone answers.
    """

    tensors: tuple[str, ...]
    left: tuple[str, ...]
    readers: tuple[str, ...]
    module: str
    width: int
    directions: int
    weights: int
    share: float
    nbytes: int
    threshold: float

    def plain(self) -> dict[str, Any]:
        """What is planned, as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Squares:
    """How far an expert moved one tensor, as sums over the tensor's entries.

    Args:
        change: Σ(W − W₀)²; None where it isn't known: not finite, or not measured.
        base: ΣW₀² over the finite entries.
        exact: every entry was read; otherwise both sums are extrapolated from a sample.
    """

    change: float | None
    base: float
    exact: bool


Squared = Mapping[str, Mapping[str, Squares]]
"""Expert → tensor of the base → how far the expert moved it."""


@dataclass(frozen=True)
class Change:
    """How far an expert moved those tensors of a component that have one fate.

    Args:
        expert: name of the expert.
        component: part of the model.
        kept: the tensors are merged, or copied from this expert; otherwise the output has the base's.
        kinds: kinds of the changed tensors, or of all of them where none is changed.
        tensors: how many the expert holds.
        changed: how many of them differ from the base.
        moved: ‖τ‖/‖W₀‖ over the tensors of these kinds, to four digits; None where it isn't
            known, or W₀ is 0.
        exact: every entry was read; otherwise `moved` and `changed` come from a sample of each tensor.
    """

    expert: str
    component: str
    kept: bool
    kinds: tuple[str, ...]
    tensors: int
    changed: int
    moved: float | None
    exact: bool


@dataclass(frozen=True)
class Plan:
    """A merge, decided: plain data.

    Args:
        recipe: what was asked for.
        architecture: name of the base's family.
        way: how it is known.
        expert_names: in the order of the recipe.
        experts: what each expert is.
        base: what the base is.
        methods: the recipe's method first, then one per rule (None for a rule that copies).
        tensors: one per tensor of the base, in the order they are written.
        shards: files of a dense output.
        side_files: donor folder, or None.
        cost: bytes, memory and work.
        warnings: what the user should know.
        fingerprint: of everything that decides the output's bytes.
        ingredients: what was given → its own fingerprint, to say what has changed.
        vocabulary: rows of the output, and added token → id; empty if all models have the base's tokens.
        squares: how far each expert moved each tensor: a sample while planning, exact once it has run.
        changes: the same by component.
        routed: what a routed output holds beside the merge; None for other outputs.
    """

    recipe: Recipe
    architecture: str
    way: Way
    expert_names: tuple[str, ...]
    experts: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    methods: tuple[MethodUse | None, ...]
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    side_files: str | None
    cost: Cost
    warnings: tuple[str, ...]
    fingerprint: str
    ingredients: Mapping[str, str]
    vocabulary: Mapping[str, Any]
    squares: Squared = field(default_factory=dict, repr=False)
    changes: tuple[Change, ...] = ()
    routed: Routed | None = None

    @property
    def generic(self) -> bool:
        """Whether roles are a guess by common names."""
        return self.way is Way.NAMES

    def use(self, tensor: TensorPlan) -> MethodUse:
        """The method of a merged tensor."""
        use = self.methods[tensor.method_index] if tensor.method_index is not None else None
        assert use is not None, f"{tensor.name} is not merged"
        return use

    def counts(self) -> dict[str, int]:
        """How many tensors are merged, copied, and aliases; together all of the base's."""
        found = Counter(tensor.action for tensor in self.tensors)
        return {action.value: found[action] for action in Action}

    def plain(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "recipe": self.recipe.plain(),
            "architecture": {"name": self.architecture, "generic": self.generic, "way": self.way.value},
            "base": self.base,
            "experts": list(self.experts),
            "methods": [use.plain() if use else None for use in self.methods],
            "counts": self.counts(),
            "cost": asdict(self.cost),
            "warnings": list(self.warnings),
            "changes": [asdict(change) for change in self.changes],
            "side_files": self.side_files,
            "shards": [shard.file_name for shard in self.shards],
            **({"vocabulary": dict(self.vocabulary)} if self.vocabulary else {}),
            **({"routed": self.routed.plain()} if self.routed is not None else {}),
            "fingerprint": self.fingerprint,
            "tensors": [tensor.plain() for tensor in self.tensors],
        }


Progress = Callable[[TensorPlan, int], None]
"""Called with a tensor and the bytes written for it, when the tensor is done."""
