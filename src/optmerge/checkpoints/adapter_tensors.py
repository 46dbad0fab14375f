"""What an adapter file changes, by parameter of the base, and the arithmetic of LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_config import LoraSettings
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.deltas import LowRank
from optmerge.errors import AdapterError

Part = Literal["down", "up", "magnitude", "full", "bias"]

_PREFIX = "base_model.model."

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


@dataclass(frozen=True)
class AdapterTensor:
    """The change that an adapter makes to one parameter of its base.

    Args:
        name: the parameter's, as in the transformers class that the adapter was trained on.
        kind: "lora" (low-rank), "dora" (low-rank with magnitudes), "full" (a new value, or a trained bias).
        shape: shape of the base's parameter, as far as the file tells; see `orientation`.
        rank: rank of the factors; None for "full".
        scaling: factor on up · down, or on the bias.
        embedding: the factors are those of an embedding table.
        transposed: the parameter is stored (inputs, outputs).
        parts: the tensors in the file.
    """

    name: str
    kind: Literal["lora", "dora", "full"]
    shape: tuple[int, ...]
    rank: int | None
    scaling: float
    embedding: bool
    transposed: bool
    parts: Mapping[Part, TensorInfo] = field(repr=False)

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
    embeddings = set()
    for key, info in tensors.items():
        name, part, embedding = _classify(path, key)
        group = groups.setdefault(name, {})
        if part in group:
            raise AdapterError(
                f"{name} is in the adapter twice", where=path, got=f"{group[part].name}, {key}"
            )
        group[part] = info
        if embedding:
            embeddings.add(name)
    if not groups:
        raise AdapterError(
            "the adapter holds no tensors", where=path, hint="it wasn't saved properly; save it again"
        )
    return {name: _tensor(path, name, groups[name], settings, name in embeddings) for name in sorted(groups)}


def _classify(path: Path, key: str) -> tuple[str, Part, bool]:
    short = key.removeprefix(_PREFIX)
    for ending, (part, parameter, embedding) in _ENDINGS.items():
        if short.endswith(ending):
            return short.removesuffix(ending) + parameter, part, embedding
    if any(unknown in short for unknown in _UNKNOWN):
        expected = ", ".join(_ENDINGS)
        raise AdapterError(
            "the adapter holds a tensor of unknown meaning", where=path, got=key, expected=expected
        )
    return short.replace(".base_layer.", "."), "full", False


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


def _implied_shape(
    path: Path, name: str, down: tuple[int, ...], up: tuple[int, ...], rank: int, embedding: bool
) -> tuple[int, ...]:
    """(outputs, inputs, kernel…), or (tokens, width) for an embedding, from the shapes of the factors."""
    shapes = f"A {down}, B {up}"
    if len(down) < 2 or len(up) != len(down) or (embedding and len(down) > 2):
        hint = "the adapter was saved from sharded weights; gather them before saving" if not down else None
        raise AdapterError(f"{name}: its factors aren't matrices", where=path, got=shapes, hint=hint)
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
