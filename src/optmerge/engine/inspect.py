"""What a checkpoint or an adapter holds, from its headers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from optmerge.architectures import resolve
from optmerge.checkpoints.adapters import Adapter, open_model
from optmerge.checkpoints.checkpoint import Checkpoint


def inspect(ref: str | Path) -> dict[str, Any]:
    """A checkpoint's architecture, sizes by role, types and ties; an adapter's targets and ranks.

    Raises:
        InputError: not a checkpoint or adapter.
    """
    model = open_model(ref)
    return _adapter(model) if isinstance(model, Adapter) else _checkpoint(model)


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    roles: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for info in checkpoint.tensors.values():
        role = architecture.role(info.name, info.shape)
        entry = roles[role.component, role.kind, info.dtype]
        for index, amount in enumerate((1, info.numel, info.nbytes)):
            entry[index] += amount
    return {
        "kind": "checkpoint",
        "path": str(checkpoint.path),
        "architecture": {
            "name": architecture.name,
            "generic": architecture.generic,
            "way": architecture.way.value,
        },
        "tensors": len(checkpoint.tensors),
        "parameters": sum(info.numel for info in checkpoint.tensors.values()),
        "bytes": checkpoint.nbytes,
        "tied": [list(pair) for pair in architecture.tied(checkpoint.config or {})],
        "roles": [
            {"component": c, "kind": k, "dtype": d, "tensors": n, "parameters": p, "bytes": b}
            for (c, k, d), (n, p, b) in sorted(roles.items())
        ],
        "side_files": [str(file) for file in checkpoint.side_files],
        "identity": checkpoint.identity(),
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    groups: dict[tuple[str, str, int], int] = defaultdict(int)
    for name, target in adapter.targets.items():
        groups[name.rpartition(".")[0].rpartition(".")[2], target.kind, target.rank or 0] += 1
    return {
        "kind": "adapter",
        "path": str(adapter.path),
        "base": adapter.base_model_name,
        "targets": [
            {"module": module, "kind": kind, "rank": rank, "tensors": count}
            for (module, kind, rank), count in sorted(groups.items())
        ],
        "beside": [file.name for file in adapter.beside],
        "bytes": adapter.nbytes,
        "identity": adapter.identity(),
    }
