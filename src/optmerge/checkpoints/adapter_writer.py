"""Writing one merged adapter that PEFT loads as it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.dtypes import dtype_name
from optmerge.checkpoints.output_files import write_file
from optmerge.checkpoints.safetensors_format import TensorSpec
from optmerge.checkpoints.shard_writer import ShardWriter
from optmerge.checkpoints.shards import Shard
from optmerge.deltas import LowRank
from optmerge.errors import AdapterError

_PREFIX = "base_model.model."


def write_adapter(
    out: Path,
    factors: Mapping[str, LowRank],
    full: Mapping[str, Tensor] | None = None,
    *,
    base_model_name: str,
    task_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    embeddings: Collection[str] = (),
    transposed: Collection[str] = (),
) -> None:
    """Write a PEFT LoRA adapter whose effect is exactly the given factors and tensors.

    The scale is in the factors: lora_alpha equals r everywhere. r is the most common rank; rank_pattern and
    alpha_pattern name the others. A rank-0 delta changes nothing and is left out.

    Args:
        out: an existing folder; adapter_model.safetensors and adapter_config.json appear in it, whole.
        factors: by parameter name (`….q_proj.weight`), in the names of the transformers class.
        full: new values of parameters that have no factors, by name; every parameter of their modules.
        base_model_name: path or hub id that PEFT will load the base from.
        task_type: PEFT's, as in "CAUSAL_LM".
        dtype: of the factors in the file.
        embeddings: those of `factors` that are embedding tables.
        transposed: those of `factors` that are stored (inputs, outputs).

    Raises:
        AdapterError: PEFT can't express it: a factor for something that isn't a module's weight, a module
            with both factors and full tensors, or nothing at all.
        RunError: the disk is full or failed.
        OutputError: the folder can't be written to.
    """
    full = full or {}
    ranked = {name: factor for name, factor in sorted(factors.items()) if factor.rank}
    tensors: dict[str, Tensor] = {}
    for name, factor in ranked.items():
        module = _module(name)
        tensors |= _stored(module, factor, name in embeddings, name in transposed)
    for name, value in sorted(full.items()):
        tensors[_PREFIX + name] = value
    if not tensors:
        raise AdapterError("the merged adapter would be empty", hint="merge into a full checkpoint instead")
    ranks = {_module(name): factor.rank for name, factor in ranked.items()}
    saved = sorted({name.rpartition(".")[0] for name in full})
    if clash := sorted(ranks.keys() & set(saved)):
        hint = "merge into a full checkpoint instead"
        raise AdapterError("PEFT can't both adapt and replace a module", where=clash[0], hint=hint)
    config = _config(ranks, saved, base_model_name, task_type, bool(set(transposed) & ranked.keys()))
    low = {name: tensor.to(dtype) if ".lora_" in name else tensor for name, tensor in tensors.items()}
    _write_weights(out, low)
    write_file(out / "adapter_config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _module(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    if parameter != "weight" or not module:
        hint = "merge into a full checkpoint instead"
        raise AdapterError("PEFT adapts only weights of modules", where=name, expected="….weight", hint=hint)
    return module


def _stored(module: str, factor: LowRank, embedding: bool, transposed: bool) -> dict[str, Tensor]:
    """The factors as PEFT names and turns them."""
    if embedding:
        names = ("lora_embedding_A", "lora_embedding_B")
        pair = (factor.up.T, factor.down.T)
    else:
        names = ("lora_A.weight", "lora_B.weight")
        pair = (factor.up.T, factor.down.T) if transposed else (factor.down, factor.up)
    down, up = pair
    if len(factor.shape) > 2:  # a convolution: A has the kernel, B is 1×1
        kernel = factor.shape[2:]
        down, up = down.reshape(-1, *factor.shape[1:]), up.reshape(*up.shape, *(1 for _ in kernel))
    return {f"{_PREFIX}{module}.{names[0]}": down, f"{_PREFIX}{module}.{names[1]}": up}


def _config(
    ranks: Mapping[str, int], saved: list[str], base_model_name: str, task_type: str | None, transposed: bool
) -> dict[str, Any]:
    # Ties go to the larger rank, so that the file doesn't depend on order.
    common = max(Counter(ranks.values()).items(), key=lambda item: (item[1], item[0]))[0] if ranks else 8
    pattern = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model_name,
        "inference_mode": True,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _write_weights(out: Path, tensors: Mapping[str, Tensor]) -> None:
    specs = tuple(
        TensorSpec(name, dtype_name(value.dtype), tuple(value.shape)) for name, value in tensors.items()
    )
    writer = ShardWriter.create(out, Shard("adapter_model.safetensors", specs))
    try:
        for name, value in tensors.items():
            writer.write(name, value)
        writer.commit()
    finally:
        writer.close()
