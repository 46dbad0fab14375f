"""The arithmetic of LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optmerge.checkpoints.adapter_tensors import AdapterTensor, Part
from optmerge.deltas import LowRank


def factors(target: AdapterTensor, parts: Mapping[Part, Tensor], transposed: bool) -> LowRank:
    """Factors in the base's orientation, the scale in `up`, float32."""
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)  # (r, n), (m, r)
    if target.embedding or transposed:
        return LowRank(down.T * target.scaling, up.T.contiguous())
    full_shape = target.shape if len(target.shape) > 2 else None
    return LowRank(up * target.scaling, down, full_shape)


def dora(base: Tensor, change: Tensor, magnitude: Tensor, outputs: int) -> Tensor:
    """g·(W + Δ) − W with g = magnitude / ‖W + Δ‖ per output; norms in float64 so that g − 1 keeps its digits.

    Source: Liu et al. 2024, arXiv:2402.09353, equation 5.
    """
    others = [axis for axis in range(base.dim()) if axis != outputs]
    norm = torch.linalg.vector_norm(base + change, dim=others, keepdim=True, dtype=torch.float64)
    gain = magnitude.to(torch.float64).reshape(norm.shape) / norm
    return change.mul_(gain.to(torch.float32)).addcmul_(base, (gain - 1).to(torch.float32))
