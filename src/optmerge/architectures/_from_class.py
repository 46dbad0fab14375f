"""An architecture read from the class that transformers has for a config: names, roles and ties."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from optmerge.architectures._architecture import Architecture, Way
from optmerge.architectures._generic import GENERIC
from optmerge.architectures._roles import Role

Shape = tuple[int, ...]

VOLATILE = ("_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "use_cache")
"""Keys of a config that have no say in what a model is made of."""


@dataclass(frozen=True)
class ModelClass:
    """What a model's class and config say.

    Args:
        name: of the class.
        roles: name in memory → role.
        shapes: name in memory → shape.
        ties: alias → source, names in memory.
        prefix: of the part without the head (`base_model_prefix`).
        conversions: of transformers, from names in files to names in memory.
    """

    name: str
    roles: Mapping[str, Role]
    shapes: Mapping[str, Shape]
    ties: Mapping[str, str]
    prefix: str
    conversions: tuple[Any, ...]


@dataclass(frozen=True)
class Trace:
    """Where a tensor ends.

    Args:
        canonical: its name in memory; where a parameter is made of several tensors, or of a part or a
            permutation of one, the tensor's name on disk after all renames.
        parameter: the parameter whose role the tensor has; None where the class has no place for it.
        swaps: how often its last two axes are swapped on the way to memory, whatever its shape.
        fits: whether the axes are swapped on the way where only that gives the parameter's shape.
    """

    canonical: str
    parameter: str | None
    swaps: int = 0
    fits: bool = False


@dataclass(frozen=True)
class ClassArchitecture(Architecture):
    """Names, roles and ties of one model, as its class has them.

    Args:
        model: what its class says.
        traces: name → where it ends, of every name asked about so far.
    """

    model: ModelClass = field(kw_only=True)
    traces: dict[str, Trace] = field(default_factory=dict, kw_only=True, compare=False)

    def canonical(self, name: str) -> str:
        """Name of the parameter in memory; see `Trace` for tensors that are no whole parameter."""
        return self._trace(name).canonical

    def role(self, name: str, shape: tuple[int, ...]) -> Role:
        """Role of the parameter in which a tensor ends; a guess by its name where the class has no place."""
        trace = self._trace(name)
        if trace.parameter is None:
            return GENERIC.role(name, shape)
        role, parameter = self.model.roles[trace.parameter], self.model.shapes[trace.parameter]
        swapped = trace.swaps + (trace.fits and tuple(shape) != parameter)
        transposed = role.transposed != bool(swapped % 2)
        return Role(role.component, role.kind, role.kind == "matrix" and transposed)

    def tied(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """(alias, source) pairs of canonical names that the class ties under this config."""
        model = _model(_told(config))
        return tuple(model.ties.items()) if isinstance(model, ModelClass) else ()

    def strangers(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names that the class has no place for."""
        return tuple(name for name in names if self._trace(name).parameter is None)

    def _trace(self, name: str) -> Trace:
        if name not in self.traces:
            self.traces[name] = _traced(name, self.model, self.model.conversions)
        return self.traces[name]


def read_class(config: Mapping[str, Any], names: Iterable[str]) -> ClassArchitecture | str:
    """The architecture of a config's class, or why there is none, in words that end a sentence.

    Args:
        config: a checkpoint's config.json.
        names: its tensor names. A class that has no place for half of them is not believed.
    """
    model = _model(_told(config))
    if isinstance(model, str):
        return model
    family = ClassArchitecture(str(config.get("model_type")), way=Way.CLASS, reason=model.name, model=model)
    # transformers reads names in this order, and some of its renames wait for a first name.
    conversions = copy.deepcopy(model.conversions)
    names = tuple(names)
    for name in sorted(names, key=_natural):
        family.traces[name] = _traced(name, model, conversions)
    strangers = family.strangers(names)
    if 2 * len(strangers) > len(names):
        return f"{model.name} has no place for {len(strangers)} of its {len(names)} tensors"
    return family


def _told(config: Mapping[str, Any]) -> str:
    """What a config says of its model, as JSON."""
    told = {key: value for key, value in config.items() if key not in VOLATILE}
    return json.dumps(told, sort_keys=True, default=str)


@cache
def _model(config: str) -> ModelClass | str:
    """What the class of a config says, kept for the process; a few strings for every parameter."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        from optmerge.architectures._meta_model import CannotBuildError, meta_model
        from optmerge.architectures._modules import roles
    except ImportError as error:
        return f"transformers can't be imported ({error})"
    try:
        model = meta_model(json.loads(config))
    except CannotBuildError as error:
        return str(error)
    judged = roles(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return ModelClass(
        name=type(model).__name__,
        roles={name: judged.get(name, Role("other", "other")) for name in shapes},
        shapes=shapes,
        ties={a: b for a, b in model.all_tied_weights_keys.items() if a in shapes and b in shapes},
        prefix=model.base_model_prefix,
        conversions=tuple(get_model_conversion_mapping(model)),
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _traced(name: str, model: ModelClass, conversions: tuple[Any, ...]) -> Trace:
    from transformers.core_model_loading import WeightConverter, apply_converters, apply_renamings

    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    renamed = apply_renamings(name, [each for each in conversions if not isinstance(each, WeightConverter)])
    if name in model.shapes and _placed(renamed, model) is None:
        renamed = name
    target, pattern = apply_converters(renamed, converters)
    whole = _placed(target, model)
    if pattern is None or whole is None:
        place = _placed(renamed, model) or (name if name in model.shapes else None)
        return Trace(place or name, place)
    operations = next(each.operations for each in converters if pattern in each.source_patterns)
    if not all(type(each).__name__ == "Transpose" for each in operations):
        return Trace(_like(whole, target, renamed), whole)
    fits = any(each.check_dims for each in operations)
    return Trace(whole, whole, swaps=sum(not each.check_dims for each in operations), fits=fits)


def _placed(name: str, model: ModelClass) -> str | None:
    """The parameter of that name, or of that name with or without the prefix of the part without the head."""
    shorter, longer = name.removeprefix(f"{model.prefix}."), f"{model.prefix}.{name}"
    return next((each for each in (name, shorter, longer) if each in model.shapes), None)


def _like(placed: str, target: str, name: str) -> str:
    """A name with the prefix taken off or put on that was taken off or put on from `target` to `placed`."""
    if len(placed) < len(target):
        return name.removeprefix(target.removesuffix(placed))
    return placed.removesuffix(target) + name
