"""Adapters whose A is fixed to principal directions of the inputs.

An adapter changes a matrix by B·A. A is fixed to the inputs' top-r principal directions, multiplied by a
random rotation, and B alone is trained. Without the rotation AdamW's per-column step size would give rare
directions the same update as frequent ones. With it every column of B stands for a mixture of directions, so
the change is large where the inputs are large. The WUDI family of methods assumes this relation between
changes and inputs.

Sources: principal directions as A: EVA (Paischer et al., 2024). A fixed: LoRA-FA (Zhang et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.training import attention
from optmerge.errors import InputError


@torch.no_grad()
def fix_to_input_directions(learner: Any, batches: Iterable[dict[str, Tensor]]) -> None:
    """Set the A of every adapter to rotated principal directions of its matrix's inputs, and freeze A.

    The principal directions are the leading eigenvectors of the inputs' second moments ΣxxT, summed in
    float64 over the tokens of all batches. PEFT's own EVA runs until every direction has settled, which takes
    minutes on inputs whose spectrum is as flat as here.

    Args:
        learner: a PEFT model with B at 0; changed in place. Every A (rank, inputs) gets orthonormal rows that
            span the top `rank` principal directions, in float32.
        batches: examples of the training data, as the model's forward takes them.

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
    for name, moments in _second_moments(learner, layers, batches).items():
        (a,) = (each.weight for each in layers[name].lora_A.values())
        directions = torch.linalg.eigh(moments).eigenvectors.T[-len(a) :]
        rotation = torch.nn.init.orthogonal_(torch.empty(len(a), len(a), dtype=directions.dtype))
        a.copy_(rotation @ directions)
        a.requires_grad_(False)


def _second_moments(
    learner: Any, layers: dict[str, Any], batches: Iterable[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Name of a layer → ΣxxT over its inputs x, (inputs, inputs) in float64."""
    moments: dict[str, Tensor] = {}

    def adding_to(name: str) -> Callable[..., None]:
        def add(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            rows = inputs[0].flatten(0, -2).double()
            moments[name] = moments.get(name, 0.0) + rows.T @ rows

        return add

    hooks = [layer.register_forward_hook(adding_to(name)) for name, layer in layers.items()]
    learner.set_attn_implementation(attention.register())
    learner.eval()
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
        learner(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: moments[name] for name in layers}
