"""The iterative solvers: Adam and SGD on a quadratic's gradient, and the literal loop that checks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optmerge.errors import MethodError
from optmerge.methods.quadratic import Quadratic


@dataclass(frozen=True)
class Optimizer:
    """A first-order optimiser and how long it runs.

    Args:
        name: `adam` (β .9/.999, ε 1e-8) or `sgd`.
        lr: learning rate.
        steps: number of steps.
        momentum: of SGD.
    """

    name: Literal["adam", "sgd"]
    lr: float
    steps: int
    momentum: float = 0.0

    def run(self, start: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """Where the steps end, from `start`, which is not modified.

        Raises:
            MethodError: the steps diverge.
        """
        merged = start.clone().requires_grad_(True)
        optimizer: torch.optim.Optimizer
        if self.name == "adam":
            optimizer = torch.optim.Adam([merged], lr=self.lr, fused=True)
        else:
            optimizer = torch.optim.SGD([merged], lr=self.lr, momentum=self.momentum)
        for _ in range(self.steps):
            merged.grad = gradient(merged.detach())
            optimizer.step()
        if not bool(torch.isfinite(merged).all()):
            raise MethodError(
                "the steps diverge at this learning rate", where="parameter lr", got=self.lr, hint="lower lr"
            )
        return merged.detach()


def descend(quadratic: Quadratic, start: Tensor, optimizer: Optimizer) -> Tensor:
    """The steps on the quadratic's gradient 2(MC − D): no product larger than M·C, m×n×min(n, R)."""
    return optimizer.run(start, quadratic.to(start.dtype).gradient)


def literal_loop(
    start: Tensor,
    weights: Sequence[float],
    targets: Sequence[Tensor],
    seen: Sequence[Tensor],
    optimizer: Optimizer,
) -> Tensor:
    """The optimisation as it is written: autograd through Σ wᵢ‖(M − Tᵢ)Lᵢᵀ‖². The oracle of the others.

    Args:
        start: M₀, (m, n).
        weights: wᵢ.
        targets: Tᵢ, (m, n).
        seen: Lᵢ, (k, n).
        optimizer: what steps to take.
    """

    def gradient(merged: Tensor) -> Tensor:
        merged = merged.detach().requires_grad_(True)
        loss = merged.new_zeros(())
        for weight, target, rows in zip(weights, targets, seen, strict=True):
            loss = loss + weight * ((merged - target) @ rows.T).square().sum()
        if not weights:
            return torch.zeros_like(merged)
        (result,) = torch.autograd.grad(loss, merged)
        return result

    return optimizer.run(start, gradient)
