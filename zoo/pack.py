"""Put a trained line or set of experts into the zoo: `python zoo/pack.py out/full zoo/full`.

Checkpoints are written in two shards. The first holds what fine-tuning leaves as the base has it, and is a
link to the base's own everywhere else, as the hub's cache links its files; the second holds what was trained.
An adapter names the zoo's base.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from optmerge.bench.training.conversations import trained_tasks

WEIGHTS, SHARDS = "model.safetensors", [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
ADAPTER = "adapter_config.json"


def pack(trained: Path, zoo: Path) -> None:
    """Copy every finished model of a training's folder that has a place in the zoo."""
    places = {"base": "base", "mixture": "mixture"} | {name: f"experts/0/{name}" for name in trained_tasks()}
    found = {trained / name: zoo / place for name, place in places.items() if (trained / name).is_dir()}
    dense = {path: load_file(path / WEIGHTS) for path in found if (path / WEIGHTS).is_file()}
    split = len(dense) > 1  # a base with adapters shares nothing
    shared = _same(dense.values()) if split else set()
    for path, place in found.items():
        shutil.copytree(path, place, ignore=shutil.ignore_patterns(WEIGHTS) if split else None)
        if split:
            _write(dense[path], shared, place, zoo / "base")
        if (config := place / ADAPTER).is_file():
            named = json.loads(config.read_text(encoding="utf-8"))
            named["base_model_name_or_path"] = os.path.relpath(zoo / "base", place)
            config.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def _same(models: Collection[dict[str, torch.Tensor]]) -> set[str]:
    """Names of the tensors that are the same in all models."""
    one, *others = models
    return {name for name, value in one.items() if all(torch.equal(value, each[name]) for each in others)}


def _write(weights: dict[str, torch.Tensor], shared: set[str], place: Path, base: Path) -> None:
    """A checkpoint's two shards and their index."""
    parts = [
        {name: value for name, value in weights.items() if (name in shared) is first}
        for first in (True, False)
    ]
    if place == base:
        save_file(parts[0], place / SHARDS[0], {"format": "pt"})
    else:
        (place / SHARDS[0]).symlink_to(os.path.relpath(base / SHARDS[0], place))
    save_file(parts[1], place / SHARDS[1], {"format": "pt"})
    size = sum(value.nbytes for value in weights.values())
    index = {name: shard for part, shard in zip(parts, SHARDS, strict=True) for name in sorted(part)}
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1)
    (place / f"{WEIGHTS}.index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    pack(*(Path(each) for each in sys.argv[1:]))
