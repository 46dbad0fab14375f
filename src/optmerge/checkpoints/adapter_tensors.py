"""What an adapter file changes, by parameter of the base, and the arithmetic of LoRA and DoRA."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_config import CONVERT, LoraSettings
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.deltas import LowRank
from optmerge.errors import AdapterError

Part = Literal["down", "up", "magnitude", "full", "bias"]

# Levels that wrappers of training put into names: PEFT, torch.compile, FSDP, checkpointing, Lightning.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:base_model\.model|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|_forward_module)\."
)
_PARALLEL = re.compile(r"^(?:module\.)+")
# The adapter's name, which PEFT leaves out when it saves, and a state dict keeps.
_NAMED = re.compile(
    r"\.(?:(lora_[AB])\.([^.]+)(?=\.(?:weight|bias)$)|(lora_embedding_[AB])\.([^.]+)$"
    r"|(lora_magnitude_vector)\.(?!weight$)([^.]+)(?=$|\.weight$))"
)
_REPLACED = re.compile(r"\.modules_to_save(?:\.([^.]+))?(?=\.)")
_FROZEN = re.compile(r"\.original_module\.")
_BASE_LAYERS = re.compile(r"(?:\.base_layer)+(?=\.|$)")

# Key endings → (part, ending of the parameter's name, is an embedding).
_ENDINGS: dict[str, tuple[Part, str, bool]] = {
    ".lora_A.weight": ("down", ".weight", False),
    ".lora_B.weight": ("up", ".weight", False),
    ".lora_embedding_A": ("down", ".weight", True),
    ".lora_embedding_B": ("up", ".weight", True),
    ".lora_magnitude_vector": ("magnitude", ".weight", False),
    ".lora_magnitude_vector.weight": ("magnitude", ".weight", False),
    ".lora_B.bias": ("bias", ".bias", False),
}
_UNKNOWN = ("lora_", "token_adapter", "trainable_tokens")

DEFINED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
"""Parameters of one module in the order in which classes of transformers define them: PEFT wraps the first
innermost."""


@dataclass(frozen=True)
class AdapterTensor:
    """The change that an adapter makes to one parameter of its base.

    Args:
        name: the parameter's, as in the transformers class that the adapter was trained on.
        kind: "lora" (low-rank), "dora" (low-rank with magnitudes), "full" (a new value, or a trained bias).
        shape: shape of the base's parameter, as far as the file tells; see `orientation`. A stack is
            (experts, outputs, inputs) here.
        rank: rank of the factors, for each expert of a stack; None for "full".
        scaling: factor on up · down, or on the bias.
        embedding: the factors are those of an embedding table.
        transposed: the parameter is stored (inputs, outputs).
        parts: the tensors in the file.
        stacked: the parameter was adapted without its module (`target_parameters`): one or more experts.
    """

    name: str
    kind: Literal["lora", "dora", "full"]
    shape: tuple[int, ...]
    rank: int | None
    scaling: float
    embedding: bool
    transposed: bool
    parts: Mapping[Part, TensorInfo] = field(repr=False)
    stacked: bool = False

    def orientation(self, shape: tuple[int, ...]) -> bool | None:
        """Whether a base parameter of this shape is stored (inputs, outputs); None when it doesn't fit.

        PEFT notes one orientation for the whole adapter, though layers may differ (GPT-2's Conv1D and its
        linear head). So the shape decides wherever it can.
        """
        if shape == self.shape:
            return self.transposed
        linear = self.rank is not None and len(self.shape) == 2 and not self.embedding
        if linear and shape == self.shape[::-1]:
            return not self.transposed
        return None


@dataclass(frozen=True)
class TargetPiece:
    """Where in a target of an adapter one tensor of the base lies.

    Args:
        target: name of the target.
        expert: index in a stack whose experts the base stores one by one; None for the whole target.
        rows: first and last-plus-one output, where the base stores a joined matrix in parts; None for all.
        transposed: of a stack: the base stores (inputs, outputs) of what the factors multiply.
    """

    target: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False


def group_tensors(
    path: Path, tensors: Mapping[str, TensorInfo], settings: LoraSettings
) -> dict[str, AdapterTensor]:
    """The parameters an adapter file changes, by name, sorted.

    Args:
        path: the file, for messages.
        tensors: its header.
        settings: of the adapter.

    Raises:
        AdapterError: a key nobody knows, a factor without its partner, or a rank other than the configured.
    """
    groups: dict[str, dict[Part, TensorInfo]] = {}
    embeddings, stacked = set(), set()
    keys = [(_classify(path, key), info) for key, info in _plain_names(path, tensors).items()]
    depths: dict[str, int] = defaultdict(int)
    for key, _ in keys:
        depths[key.module] = max(depths[key.module], key.level)
    for key, info in keys:
        name = key.name
        if key.part != "full" and (parameter := _own_parameter(path, key, depths[key.module], settings)):
            name = f"{key.module}.{parameter}"
            stacked.add(name)
        group = groups.setdefault(name, {})
        if key.part in group:
            got = f"{group[key.part].name}, {info.name}"
            hint = "remove one of the two from the file, and save it again"
            raise AdapterError(f"{name} is in the adapter twice", where=path, got=got, hint=hint)
        group[key.part] = info
        if key.embedding:
            embeddings.add(name)
    if not groups:
        raise AdapterError(
            "the adapter holds no tensors", where=path, hint="it wasn't saved properly; save it again"
        )
    return {
        name: _stack(path, name, groups[name], settings)
        if name in stacked
        else _tensor(path, name, groups[name], settings, name in embeddings)
        for name in sorted(groups)
    }


@dataclass(frozen=True)
class _Key:
    """What a key of an adapter file says.

    Args:
        name: of the parameter, unless its module has parameters that are adapted by themselves.
        module: that the factors lie at; the name again for a full tensor.
        level: how many wrappers lie around the factors' own (`….base_layer.lora_A.weight` is 1).
        part: what the tensor is.
        embedding: the factors are those of an embedding table.
    """

    name: str
    module: str
    level: int
    part: Part
    embedding: bool


def _plain_names(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by their keys as PEFT saves them, without the levels of wrappers and the adapter's name.

    A trained module's value that has both of PEFT's names counts once: `save_embedding_layers` writes
    `lm_head.modules_to_save.weight` beside `lm_head.weight`, and PEFT reads the latter.

    Raises:
        AdapterError: two keys are one then, or the file holds several adapters.
    """
    found: dict[str, TensorInfo] = {}
    adapters: dict[str, str] = {}
    short_names = {inner_name(key): info for key, info in tensors.items()}
    for key, info in tensors.items():
        plain = _NAMED.sub(lambda match: "." + next(filter(None, match.groups())), short := inner_name(key))
        if match := _NAMED.search(short):
            adapters[match[2] or match[4] or match[6]] = key
        if _FROZEN.search(plain):  # the base's own values, beside those that were trained
            continue
        if match := _REPLACED.search(plain):
            plain = _REPLACED.sub("", plain)
            if match[1] is None and _saved_twice(info, short_names.get(plain)):
                continue
            adapters[match[1] or "default"] = key
        if plain in found:
            hint = "remove one of the two from the file, and save it again"
            got = f"{found[plain].name}, {key}"
            raise AdapterError(f"{plain} is in the adapter twice", where=path, got=got, hint=hint)
        found[plain] = info
    if len(adapters) > 1:
        hint = "save the adapters one by one with PEFT's save_pretrained(selected_adapters=[…])"
        raise AdapterError(
            "the file holds several adapters", where=path, got=", ".join(list(adapters)[:5]), hint=hint
        )
    return found


def _saved_twice(info: TensorInfo, again: TensorInfo | None) -> bool:
    """Whether a trained module's tensor is in the file once more, under the name that PEFT reads."""
    return again is not None and (info.shape, info.dtype) == (again.shape, again.dtype)


def inner_name(key: str) -> str:
    """A tensor's name without the levels that PEFT, compilers and parallel trainers put into it.

    `base_model.model.`, `_orig_mod.`, `_fsdp_wrapped_module.` and the like go wherever they stand, `module.`
    goes at the beginning.
    """
    while True:
        short = _PARALLEL.sub("", _WRAPPERS.sub("", key))
        if short == key:
            return key
        key = short


def _classify(path: Path, key: str) -> _Key:
    for ending, (part, parameter, embedding) in _ENDINGS.items():
        if key.endswith(ending):
            place = key.removesuffix(ending)
            module = _BASE_LAYERS.sub("", place)
            level = (len(place) - len(module)) // len(".base_layer")
            return _Key(module + parameter, module, level, part, embedding)
    if any(unknown in key for unknown in _UNKNOWN):
        expected = ", ".join(_ENDINGS)
        raise AdapterError(
            "the adapter holds a tensor of unknown meaning",
            where=path,
            got=key,
            expected=expected,
            hint=CONVERT,
        )
    name = _BASE_LAYERS.sub("", key)
    return _Key(name, name, 0, "full", False)


def _own_parameter(path: Path, key: _Key, depth: int, settings: LoraSettings) -> str | None:
    """Name of the parameter of its module that factors belong to; None where they are the module's own.

    PEFT keeps only endings of the parameters' names and wraps one around the other in the order in which the
    class defines them, so that the last one is outermost.
    """
    endings = [each.rpartition(".") for each in settings.parameters]
    placed = [name for start, _, name in endings if start and f".{key.module}".endswith(f".{start}")]
    bare = [name for start, _, name in endings if not start]
    candidates = placed or ([] if not depth and settings.is_module(key.module) else bare)
    if not candidates and not depth:
        return None
    known = [name for name in DEFINED if name in candidates] if depth else candidates
    if len(known) != depth + 1 or len(candidates) != depth + 1:
        raise AdapterError(
            f"{key.module}: which of its parameters are adapted isn't known",
            where=path,
            got=f"factors of {depth + 1}, target_parameters {', '.join(settings.parameters) or 'none'}",
            hint=CONVERT,
        )
    return known[depth - key.level]


def _tensor(
    path: Path, name: str, parts: Mapping[Part, TensorInfo], settings: LoraSettings, embedding: bool
) -> AdapterTensor:
    module = name.rpartition(".")[0]
    scaling = settings.scaling_of(module)
    down, up = parts.get("down"), parts.get("up")
    if down is None and up is None:
        if "magnitude" in parts or len(parts) > 1:
            raise AdapterError(
                f"{name}: its parts don't belong together", where=path, got=", ".join(sorted(parts))
            )
        (info,) = parts.values()
        return AdapterTensor(name, "full", info.shape, None, scaling, False, False, parts)
    if down is None or up is None:
        there = "B (up)" if down is None else "A (down)"
        raise AdapterError(
            f"{name}: only one of its factors is there", where=path, got=there, expected="A and B"
        )
    if "full" in parts and ".base_layer." not in parts["full"].name:
        raise AdapterError(f"{name} is both replaced and adapted", where=path, got=parts["full"].name)
    rank = settings.rank_of(module)
    shape = _implied_shape(path, name, down.shape, up.shape, rank, embedding)
    transposed = settings.fan_in_fan_out and len(shape) == 2 and not embedding
    shape = shape[::-1] if transposed else shape
    kind = _kind(path, name, parts, settings, shape[1 if transposed or embedding else 0])
    return AdapterTensor(name, kind, shape, rank, scaling, embedding, transposed, parts)


def _stack(path: Path, name: str, parts: Mapping[Part, TensorInfo], settings: LoraSettings) -> AdapterTensor:
    """A parameter adapted by itself: every expert of a stack has factors of its own, one after the other."""
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None or len(parts) != 2:
        got = ", ".join(sorted(parts))
        raise AdapterError(f"{name}: its parts aren't A and B", where=path, got=got, expected="A and B")
    rank = settings.rank_of(name)
    shapes = f"A {list(down.shape)}, B {list(up.shape)}"
    if len(down.shape) != 2 or len(up.shape) != 2 or not all((*down.shape, *up.shape)):
        raise _no_matrices(path, name, shapes, down.shape, up.shape)
    experts, rest = divmod(down.shape[0], rank)
    if rest or up.shape[1] != down.shape[0]:
        expected = f"rank {rank}, as adapter_config.json says, for each expert"
        raise AdapterError(f"{name}: its rank is wrong", where=path, got=shapes, expected=expected)
    shape = (up.shape[0], down.shape[1]) if experts == 1 else (experts, up.shape[0], down.shape[1])
    return AdapterTensor(name, "lora", shape, rank, settings.scaling_of(name), False, False, parts, True)


def _no_matrices(
    path: Path, name: str, shapes: str, down: tuple[int, ...], up: tuple[int, ...]
) -> AdapterError:
    empty = 0 in (*down, *up) or not down or not up
    hint = "the adapter was saved from sharded weights (ZeRO-3, FSDP): gather them, and save it again"
    return AdapterError(
        f"{name}: its factors aren't matrices", where=path, got=shapes, hint=hint if empty else None
    )


def _implied_shape(
    path: Path, name: str, down: tuple[int, ...], up: tuple[int, ...], rank: int, embedding: bool
) -> tuple[int, ...]:
    """(outputs, inputs, kernel…), or (tokens, width) for an embedding, from the shapes of the factors."""
    shapes = f"A {list(down)}, B {list(up)}"
    if len(down) < 2 or len(up) != len(down) or (embedding and len(down) > 2) or not all((*down, *up)):
        raise _no_matrices(path, name, shapes, down, up)
    if down[0] != rank or up[1] != rank:
        expected = f"rank {rank}, as adapter_config.json says (grouped convolutions aren't supported)"
        raise AdapterError(f"{name}: its rank is wrong", where=path, got=shapes, expected=expected)
    if prod(up[2:]) != 1:
        raise AdapterError(f"{name}: B has a kernel", where=path, got=shapes, expected="a 1×1 kernel")
    return (down[1], up[0]) if embedding else (up[0], *down[1:])


def _kind(
    path: Path, name: str, parts: Mapping[Part, TensorInfo], settings: LoraSettings, outputs: int
) -> Literal["lora", "dora"]:
    magnitude = parts.get("magnitude")
    if (magnitude is not None) != settings.dora:
        got = "a magnitude vector" if magnitude is not None else "no magnitude vector"
        expected = f"use_dora is {settings.dora} in adapter_config.json"
        raise AdapterError(f"{name}: file and config disagree", where=path, got=got, expected=expected)
    if magnitude is None:
        return "lora"
    if prod(magnitude.shape) != outputs or max(magnitude.shape, default=1) != outputs:
        expected = f"{outputs} numbers"
        raise AdapterError(
            f"{name}: its magnitude is wrong", where=path, got=magnitude.shape, expected=expected
        )
    return "dora"


def factors(target: AdapterTensor, parts: Mapping[Part, Tensor], transposed: bool) -> LowRank:
    """Factors of a target in the base's orientation, float32, with the scale folded into `up`."""
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)  # (r, n), (m, r)
    if target.embedding or transposed:
        return LowRank(down.T * target.scaling, up.T.contiguous())
    full_shape = target.shape if len(target.shape) > 2 else None
    return LowRank(up * target.scaling, down, full_shape)


def expert_factors(
    target: AdapterTensor, down: Tensor, up: Tensor, piece: TargetPiece, experts: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Factors of some experts of a stack, as stored: (E, m, r) with the scale folded in, and (E, r, n).

    PEFT keeps the experts' A one below the other, and in B the experts of one direction side by side.

    Args:
        target: the stack.
        down: A of these experts, (E·r, inputs), float32.
        up: B of all experts, (outputs, r·all), float32.
        piece: which rows are wanted, and how they are stored.
        experts: first and last-plus-one expert.

    Source: peft 0.21, `ParamWrapper.get_delta_weight`.
    """
    rank = down.shape[0] // (experts[1] - experts[0])
    below = down.view(-1, rank, down.shape[1])
    beside = up.view(up.shape[0], rank, -1)[..., experts[0] : experts[1]].permute(2, 0, 1)
    if piece.transposed:
        beside, below = below.mT, beside.mT
    start, stop = piece.rows or (0, beside.shape[1])
    return (beside[:, start:stop] * target.scaling).contiguous(), below.contiguous()


def dora(base: Tensor, change: Tensor, magnitude: Tensor, outputs: int) -> Tensor:
    """Change that DoRA makes: g·(W + Δ) − W with g = magnitude / ‖W + Δ‖ per output.

    Norms are float64, so that g − 1 keeps its digits.

    Args:
        base: W, float32; not modified.
        change: Δ, of the same shape, float32; overwritten.
        magnitude: one number per output.
        outputs: axis of the outputs.

    Source: Liu et al. 2024, arXiv:2402.09353, equation 5.
    """
    others = [axis for axis in range(base.dim()) if axis != outputs]
    norm = torch.linalg.vector_norm(base + change, dim=others, keepdim=True, dtype=torch.float64)
    gain = magnitude.to(torch.float64).reshape(norm.shape) / norm
    return change.mul_(gain.to(torch.float32)).addcmul_(base, (gain - 1).to(torch.float32))
