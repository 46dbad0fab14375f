"""The iterative solvers: Adam and SGD on a quadratic's gradient, and the literal loop that checks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from optmerge.errors import MethodError
from optmerge.methods._fast.kernels import adam_step as compiled_adam_step
from optmerge.methods._fast.kernels import compiled_for
from optmerge.methods._solvers.quadratic import Quadratic

BETAS, EPSILON = (0.9, 0.999), 1e-8

ROWS = 512
"""Rows that are optimised at a time."""


@dataclass(frozen=True)
class Optimizer:
    """A first-order optimiser and how long it runs.

    Args:
        name: `adam` (β .9/.999, ε 1e-8) or `sgd`.
        lr: learning rate.
        steps: number of steps.
        momentum: μ of SGD, v ← μv + gradient, in [0, 1). Adam ignores it.
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
        merged = start.clone(memory_format=torch.contiguous_format)
        velocity = torch.zeros_like(merged)
        squares = torch.zeros_like(merged) if self.name == "adam" else None
        for step in range(1, self.steps + 1):
            if squares is not None:
                adam_step(merged, gradient(merged), velocity, squares, step, self.lr)
            else:
                velocity.mul_(self.momentum).add_(gradient(merged))
                merged.sub_(velocity, alpha=self.lr)
        if not bool(torch.isfinite(merged).all()):
            raise MethodError(
                "the steps diverge at this learning rate", where="parameter lr", got=self.lr, hint="lower lr"
            )
        return merged


def adam_step(values: Tensor, gradient: Tensor, mean: Tensor, squares: Tensor, step: int, lr: float) -> None:
    """One step of Adam in place, as torch.optim's; importing that costs a second and 90 MiB.

    Args:
        values: what is optimised, contiguous.
        gradient: of the loss there.
        mean: running mean of the gradients.
        squares: running mean of their squares.
        step: number of this step, from 1.
        lr: learning rate.

    Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.
    """
    rate, root = lr / (1 - BETAS[0] ** step), (1 - BETAS[1] ** step) ** 0.5
    if compiled_for(values):
        arrays = (each.contiguous().view(-1).numpy() for each in (values, gradient, mean, squares))
        compiled_adam_step(*arrays, *(np.float32(each) for each in (*BETAS, EPSILON, rate, root)))
        return
    mean.lerp_(gradient, 1 - BETAS[0])
    squares.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    values.addcdiv_(mean, (squares.sqrt() / root).add_(EPSILON), value=-rate)


def descend(quadratic: Quadratic, start: Tensor, optimizer: Optimizer) -> Tensor:
    """The steps on the quadratic's gradient 2(MC − D).

    Rows of M don't know of each other, so some take all their steps before the next begin: what the optimiser
    keeps of them stays in the cache.
    """
    quadratic = quadratic.for_steps().to(start.dtype)
    merged = torch.empty_like(start)
    for first in range(0, len(start), ROWS):
        last = min(len(start), first + ROWS)
        merged[first:last] = optimizer.run(start[first:last], quadratic.rows(first, last).gradient)
    return merged


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
