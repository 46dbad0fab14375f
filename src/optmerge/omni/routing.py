"""Adapters that only some tokens go through: one for the embeddings of each modality, one for text.

This is the parameter decoupling of DAMC: an expert's change for the embeddings of its modality stays as it
is, and only the experts' changes for text are merged.

Source: Chen et al., Model Composition for Multimodal Large Language Models, 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from optmerge.errors import InputError

TEXT = "text"
"""Name of the route of all tokens that are no placeholder."""


class Routes:
    """Route of every token of the current call; all routed layers of a model share one of these."""

    def __init__(self) -> None:
        self._places: Mapping[str, Tensor] = {}

    def set(self, places: Mapping[str, Tensor]) -> None:
        """Sets the routes of the next call.

        Args:
            places: modality → whether its embeddings are there, (rows, length); all other tokens are text.
        """
        self._places = {modality: place for modality, place in places.items() if bool(place.any())}

    def of(self, name: str, states: Tensor) -> Tensor | None:
        """Which positions of `states` (rows, length, width) take a route, (rows, length); None if all do."""
        if name != TEXT:
            found = self._places.get(name)
            return states.new_zeros(states.shape[:-1], dtype=torch.bool) if found is None else found
        if not self._places:
            return None
        return ~torch.stack(list(self._places.values())).any(0)


class RoutedLinear(nn.Linear):
    """A linear layer with a low-rank change for the tokens of each route.

    Args:
        inputs: width of the inputs.
        outputs: width of the outputs.
        bias: whether the layer has a bias.
        ranks: route → rank of its change.
        routes: routes of the tokens, shared by the model's layers.
    """

    def __init__(
        self, inputs: int, outputs: int, bias: bool, ranks: Mapping[str, int], routes: Routes
    ) -> None:
        super().__init__(inputs, outputs, bias)
        self.down = nn.ParameterDict({name: torch.zeros(rank, inputs) for name, rank in ranks.items()})
        self.up = nn.ParameterDict({name: torch.zeros(outputs, rank) for name, rank in ranks.items()})
        self._routes = routes

    def forward(self, states: Tensor) -> Tensor:
        """(rows, length, inputs) → (rows, length, outputs)."""
        out = super().forward(states)
        for name, down in self.down.items():
            chosen = self._routes.of(name, states)
            if chosen is None:
                out = out + states @ down.T @ self.up[name].T
            elif bool(chosen.any()):
                change = states[chosen] @ down.T @ self.up[name].T
                out = out.index_put(chosen.nonzero(as_tuple=True), change, accumulate=True)
        return out


def install_routes(model: nn.Module, layers: Mapping[str, Any], routes: Routes) -> None:
    """Replaces linear layers by routed ones, whose changes are zero until weights are loaded.

    Args:
        model: model that is changed in place.
        layers: name of a linear layer → route → rank.
        routes: routes of the tokens, shared by the layers.

    Raises:
        InputError: the model has no such linear layer.
    """
    for name, ranks in layers.items():
        parent, _, last = name.rpartition(".")
        try:
            old = model.get_submodule(name)
        except AttributeError:
            old = None
        if type(old) is not nn.Linear:
            raise InputError(
                "only linear layers can be routed", where=name, got=type(old).__name__, expected="Linear"
            )
        new = RoutedLinear(old.in_features, old.out_features, old.bias is not None, ranks, routes)
        setattr(model.get_submodule(parent), last, new.to(old.weight.device, old.weight.dtype))
