"""Muon for matrices, AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Two of torch's optimisers that step together.

    Muon (Jordan et al., 2024) makes each matrix's update orthogonal. On the benchmark's models Muon needs a
    fraction of the pictures that AdamW needs. Muon isn't meant for embeddings, biases and norms.

    Args:
        named: (name, parameter) pairs; matrices that are no embedding or head go to Muon, the rest to AdamW.
        matrix_rate: learning rate of Muon, which torch multiplies by sqrt(max(1, rows / columns)).
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of the matrices; AdamW's parameters have none.
        betas: decay rates of AdamW's moments.
        factor: function from a parameter's name to the factor of its learning rate.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Tensor]],
        *,
        matrix_rate: float,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        matrices: dict[float, list[Tensor]] = defaultdict(list)
        others: dict[float, list[Tensor]] = defaultdict(list)
        for name, weight in named:
            is_matrix = weight.dim() == 2 and "embed" not in name and "head" not in name
            (matrices if is_matrix else others)[factor(name)].append(weight)
        muon = [{"params": group, "lr": times * matrix_rate} for times, group in matrices.items()]
        adam = [{"params": group, "lr": times * learning_rate} for times, group in others.items()]
        self._both: list[Optimizer] = []
        if muon:
            self._both.append(Muon(muon, weight_decay=weight_decay, adjust_lr_fn="original"))
        if adam:  # an adapter has nothing but matrices
            self._both.append(AdamW(adam, betas=betas, weight_decay=0.0))
        # The groups are those of the two, so that a schedule that sets a rate sets theirs.
        super().__init__([group for one in self._both for group in one.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do one step of both optimisers; `closure` isn't supported."""
        assert closure is None, "Muon and AdamW would both call it"
        for one in self._both:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both optimisers."""
        return {"both": [one.state_dict() for one in self._both]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the states of both optimisers, as `state_dict` gave them."""
        for one, state in zip(self._both, state_dict["both"], strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self._both for group in one.param_groups]
