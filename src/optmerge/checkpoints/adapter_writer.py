"""Writing one merged adapter that PEFT loads as it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_tensors import DEFINED
from optmerge.checkpoints.dtypes import dtype_name
from optmerge.checkpoints.output_files import write_file
from optmerge.checkpoints.safetensors_format import TensorSpec
from optmerge.checkpoints.shard_writer import ShardWriter
from optmerge.checkpoints.shards import Shard
from optmerge.deltas import LowRank
from optmerge.errors import AdapterError

_PREFIX = "base_model.model."


@dataclass(frozen=True, eq=False)
class StackFactors:
    """Low-rank changes of a stack of experts, all of one rank r; in PEFT's orientation of inputs and outputs.

    Args:
        up: (experts, outputs, r), float32.
        down: (experts, r, inputs), float32.
    """

    up: Tensor
    down: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Tensors that hold the changes: `up` and `down`."""
        return (self.up, self.down)

    @property
    def rank(self) -> int:
        """r, for each expert."""
        return self.down.shape[1]

    def squared_norm(self) -> float:
        """Sum of all experts' ‖up · down‖²_F in float64."""
        return sum(LowRank(up, down).squared_norm() for up, down in zip(self.up, self.down, strict=True))


def write_adapter(
    out: Path,
    factors: Mapping[str, LowRank],
    full: Mapping[str, Tensor] | None = None,
    stacks: Mapping[str, StackFactors] | None = None,
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
        stacks: factors of stacks of experts, by parameter name (`….experts.down_proj`).
        base_model_name: path or hub id that PEFT will load the base from.
        task_type: PEFT's, as in "CAUSAL_LM".
        dtype: of the factors in the file.
        embeddings: those of `factors` that are embedding tables.
        transposed: those of `factors` that are stored (inputs, outputs).

    Raises:
        AdapterError: PEFT can't express it: a factor for something that isn't a module's weight, a module
            with both factors and full tensors, stacks beside factors of transposed layers, or nothing at all.
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
    stacked = {name: stack for name, stack in sorted((stacks or {}).items()) if stack.rank}
    for name, stack in stacked.items():
        tensors |= _stored_stack(name, stack, stacked)
    if not tensors:
        raise AdapterError("the merged adapter would be empty", hint="merge into a full checkpoint instead")
    ranks = {_module(name): factor.rank for name, factor in ranked.items()}
    saved = sorted({name.rpartition(".")[0] for name in full})
    if clash := sorted(ranks.keys() & set(saved)):
        hint = "merge into a full checkpoint instead"
        raise AdapterError("PEFT can't both adapt and replace a module", where=clash[0], hint=hint)
    turned = bool(set(transposed) & ranked.keys())
    if turned and stacked:
        hint = "merge into a full checkpoint instead"
        raise AdapterError(
            "PEFT can't adapt stacks beside transposed layers", where=next(iter(stacked)), hint=hint
        )
    stack_ranks = {name: stack.rank for name, stack in stacked.items()}
    config = _config(ranks, stack_ranks, saved, base_model_name, task_type, turned)
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


def _stored_stack(name: str, stack: StackFactors, stacks: Collection[str]) -> dict[str, Tensor]:
    """The factors as `ParamWrapper` of PEFT has them: A below each other, B with its experts side by side.

    PEFT wraps the parameters of one module around each other, so that the last is outermost.

    Source: peft 0.21, `ParamWrapper.get_delta_weight`.
    """
    module, _, parameter = name.rpartition(".")
    siblings = [each.rpartition(".")[2] for each in stacks if each.rpartition(".")[0] == module]
    order = [each for each in DEFINED if each in siblings] if len(siblings) > 1 else siblings
    if len(order) != len(siblings):
        hint = "merge into a full checkpoint instead"
        raise AdapterError("the order of a module's stacks isn't known", where=name, hint=hint)
    place = _PREFIX + module + ".base_layer" * (len(order) - 1 - order.index(parameter))
    return {
        f"{place}.lora_A.weight": stack.down.flatten(0, 1),
        f"{place}.lora_B.weight": stack.up.permute(1, 2, 0).flatten(1),
    }


def _config(
    modules: Mapping[str, int],
    stacks: Mapping[str, int],
    saved: list[str],
    base_model_name: str,
    task_type: str | None,
    transposed: bool,
) -> dict[str, Any]:
    ranks = {**modules, **stacks}
    # Ties go to the larger rank, so that the file doesn't depend on order.
    common = max(Counter(ranks.values()).items(), key=lambda item: (item[1], item[0]))[0] if ranks else 8
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model_name,
        "inference_mode": True,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": sorted(modules),
        **({"target_parameters": sorted(stacks)} if stacks else {}),
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
