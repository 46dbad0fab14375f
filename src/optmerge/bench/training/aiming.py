"""Adapters that read the main directions of what they are given, and go on reading those.

EVA (Paischer et al., 2024) sets A to the main directions of the inputs, LoRA-FA (Zhang et al., 2023) leaves A
where it began. Together an adapter is trained as a model of its own is, in those directions alone. They are
turned among each other at random, as a model's own coordinates lie: AdamW moves every column of B as fast, so
columns that belonged to single directions would change for the least of inputs as much as for the main one.
Mixed, a change is large where inputs are, which the WUDI family of methods takes for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.training import attention
from optmerge.errors import InputError


@torch.no_grad()
def aim(learner: Any, batches: Iterable[dict[str, Tensor]]) -> None:
    """Set the A of every adapted matrix to the main directions of its inputs, and keep it from training.

    peft's own EVA waits until each direction has settled, which takes minutes where inputs are as even as
    here; the inputs' second moments are all that is needed.

    Args:
        learner: a PEFT model with B at 0; A (rank, inputs) gets orthonormal rows that span the main ones.
        batches: what it is going to learn from, as its forward takes it.

    Raises:
        InputError: an adapter has a higher rank than its matrix has inputs.
    """
    from peft.tuners.lora import LoraLayer

    layers = {name: each for name, each in learner.named_modules() if isinstance(each, LoraLayer)}
    for name, layer in layers.items():
        if max(layer.r.values()) > layer.in_features:
            raise InputError(
                "an aimed adapter has as many directions as its rank, at most those of its inputs",
                where=name,
                got=max(layer.r.values()),
                expected=f"at most {layer.in_features}",
            )
    moments: dict[str, Tensor] = {}

    def watching(name: str) -> Callable[..., None]:
        def watch(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            rows = inputs[0].flatten(0, -2).double()
            moments[name] = moments.get(name, 0.0) + rows.T @ rows

        return watch

    hooks = [layer.register_forward_hook(watching(name)) for name, layer in layers.items()]
    learner.set_attn_implementation(attention.register())
    learner.eval()
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
        learner(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        (a,) = (each.weight for each in layer.lora_A.values())
        main = torch.linalg.eigh(moments[name]).eigenvectors.T[-len(a) :]
        a.copy_(torch.nn.init.orthogonal_(torch.empty(len(a), len(a), dtype=main.dtype)) @ main)
        a.requires_grad_(False)
