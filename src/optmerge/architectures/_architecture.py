"""An architecture: rules that give a tensor its canonical name and its role."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optmerge.architectures._roles import KindRule, Role, kind_of
from optmerge.architectures._ties import Tie

STACKED_EXPERTS = re.compile(r"(^|\.)(experts|block_sparse_moe)\.(?!\d)")
WRITES_HIDDEN = re.compile(r"(^|\.)(down_proj|output_linear|fc2|w2)(\.weight)?$")


class Way(StrEnum):
    """How an architecture is known."""

    DECLARED = "declared"
    CLASS = "class"
    """Read from the class that transformers has for the config."""
    NAMES = "names"
    """Guessed from common names."""


@dataclass(frozen=True)
class Architecture:
    """How one family names its tensors.

    Args:
        name: the `model_type` of its configs.
        classes: class names, in a config's `architectures`, that mean this family by any `model_type`.
        renames: (pattern, replacement) pairs, applied in order by `re.sub`; they end at the canonical name.
        components: (pattern, component) pairs on canonical names, matched from the start, first match wins.
        kinds: rules that go before the shared ones.
        transposed: patterns of the matrices that are always stored (in, out).
        tie: pair of parameters that a config may tie; None for a family that never ties.
        hidden_size: width of the language model, from the config; tells the orientation of stacked experts.
        composed: whether its models are made of several models, so that no one base has all their tensors.
        support: name of the module that loads and checks models whose class isn't one of transformers; empty
            where transformers has the class. See `optmerge.omni.support` for what the module has.
        way: how it is known.
        reason: the class it was read from, or why it is guessed from names; empty for a declared family.
    """

    name: str
    classes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    components: tuple[tuple[str, str], ...] = ()
    kinds: tuple[KindRule, ...] = ()
    transposed: tuple[str, ...] = ()
    tie: Tie | None = None
    hidden_size: int | None = None
    composed: bool = False
    support: str = ""
    way: Way = Way.DECLARED
    reason: str = ""

    @property
    def generic(self) -> bool:
        """Whether roles are a guess by common names, not facts about the family."""
        return self.way is Way.NAMES

    def canonical(self, name: str) -> str:
        """Name of the parameter in the transformers 5 class with a head; idempotent.

        Per-expert tensors, which transformers stacks in memory (`mlp.experts.gate_up_proj`), have no
        parameter of their own: their canonical name is `mlp.experts.N.{gate,up,down}_proj.weight`.
        """
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def role(self, name: str, shape: tuple[int, ...]) -> Role:
        """Role of a tensor, by its name on disk or in memory and its shape."""
        name = self.canonical(name)
        kind = kind_of(name, shape, self.kinds)
        return Role(self._component(name), kind, kind == "matrix" and self._is_transposed(name, shape))

    def tied(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """(alias, source) pairs of canonical names that this config ties.

        The pairs are what the config claims. A checkpoint that stores both tensors with different values
        isn't tied, whatever its config says: transformers 5 then warns and keeps the two apart.
        """
        return ((self.tie.alias, self.tie.source),) if self.tie and self.tie.holds(config) else ()

    def strangers(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names that the family's class has no place for; none where no class was read."""
        return ()

    def knows(self, names: Iterable[str]) -> bool:
        """Whether most of these names belong to a component of this family."""
        known = [self._component(self.canonical(name)) != "other" for name in names]
        return 2 * sum(known) >= len(known)

    def _component(self, canonical: str) -> str:
        matches = (component for pattern, component in self.components if re.match(pattern, canonical))
        return next(matches, "other")

    def _is_transposed(self, name: str, shape: tuple[int, ...]) -> bool:
        if any(re.search(pattern, name) for pattern in self.transposed):
            return True
        if len(shape) != 3 or self.hidden_size is None or not STACKED_EXPERTS.search(name):
            return False
        # Qwen3-VL-MoE has the same name in either orientation (transformers 4 wrote (in, out)), so only the
        # shape tells. A square one is taken as it is, which is also what transformers does on load.
        out, in_ = shape[1:]
        read, write = (in_, out) if not WRITES_HIDDEN.search(name) else (out, in_)
        return write == self.hidden_size != read
