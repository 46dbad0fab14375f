"""Which tensor goes into which file, as save_pretrained decides it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from optmerge.checkpoints.safetensors_format import TensorSpec

DEFAULT_SHARD_BYTES = 50 * 10**9
"""Default max_shard_size of transformers 5 (of transformers 4 and huggingface_hub: 5 GB)."""

INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint to be written.

    Args:
        file_name: under the output folder.
        tensors: in the order they were planned; within the file they have the library's order.
    """

    file_name: str
    tensors: tuple[TensorSpec, ...]


def plan_shards(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    shard_size_bytes: int = DEFAULT_SHARD_BYTES,
    stem: str = "model",
) -> list[Shard]:
    """Split tensors over files as huggingface_hub's split (and so save_pretrained) does.

    The split is greedy, in the order given. A tensor larger than a shard gets a file of its own, which comes
    before the file being filled. A tensor that doesn't fit into the file being filled closes that file.

    Args:
        tensors: (name, safetensors dtype, shape), in state-dict order.
        shard_size_bytes: limit of the tensors in one file, in bytes.
        stem: of the file names.

    Returns:
        At least one shard.
    """
    groups: list[list[TensorSpec]] = []
    current: list[TensorSpec] = []
    filled = 0
    for spec in (TensorSpec(*tensor) for tensor in tensors):
        if spec.nbytes > shard_size_bytes:
            groups.append([spec])
            continue
        if filled + spec.nbytes > shard_size_bytes:
            groups.append(current)
            current, filled = [], 0
        current.append(spec)
        filled += spec.nbytes
    if current or not groups:
        groups.append(current)
    if len(groups) == 1:
        return [Shard(f"{stem}.safetensors", tuple(groups[0]))]
    names = (f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1))
    return [Shard(name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def encode_index(shards: Sequence[Shard], total_parameters: int | None = None) -> bytes:
    """The index of a sharded checkpoint, byte for byte as save_pretrained (transformers 5) writes it.

    Args:
        shards: as planned.
        total_parameters: what to record; the number of elements written when None.
    """
    specs = [spec for shard in shards for spec in shard.tensors]
    if total_parameters is None:
        total_parameters = sum(prod(spec.shape) for spec in specs)
    metadata = {"total_parameters": total_parameters, "total_size": sum(spec.nbytes for spec in specs)}
    weight_map = {spec.name: shard.file_name for shard in shards for spec in shard.tensors}
    index = {"metadata": metadata, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode("utf-8")
