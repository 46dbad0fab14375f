"""A merge in memory: base and merged delta are made once, and every strength is tried in place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from optmerge.architectures import resolve
from optmerge.engine.merge import Options, merge
from optmerge.evaluate import chat
from optmerge.evaluate.chat import Chat
from optmerge.recipe import Recipe
from optmerge.tune.candidates import Candidate

KEPT = 4
"""Merged deltas in memory, each of the size of what is merged, in float32."""


@dataclass(frozen=True)
class ParameterChange:
    """What a merge makes of one parameter at strength 1.

    Args:
        delta: merged less base, float32, of the parameter's shape.
        component: of the parameter.
    """

    delta: Tensor
    component: str


class Subject:
    """The model that becomes one candidate after the other.

    Args:
        asked: the recipe that is tuned.
        scratch: folder for merged checkpoints while they are read.
        device: of torch, where it is merged and asked.
    """

    def __init__(self, asked: Recipe, scratch: Path, device: str = "cpu") -> None:
        self._asked, self._scratch, self._device = asked, scratch, device
        self.chat: Chat = chat.load(asked.base, device=device, dtype="float32")
        self._base = {name: value.clone() for name, value in self.chat.model.state_dict().items()}
        self._made: OrderedDict[tuple[object, ...], Mapping[str, ParameterChange]] = OrderedDict()
        self._changed: set[str] = set()

    def become(self, candidate: Candidate | None) -> Chat:
        """The candidate's model, or the base's; the one before is gone.

        Raises:
            InputError: the candidate can't be merged.
        """
        changes = {} if candidate is None else self._changes(candidate)
        state = self.chat.model.state_dict()
        with torch.no_grad():
            for name in self._changed - changes.keys():
                state[name].copy_(self._base[name])
            for name, change in changes.items():
                strength = 1.0 if candidate is None else candidate.strengths.get(change.component, 1.0)
                torch.add(self._base[name], change.delta, alpha=strength, out=state[name])
        self._changed = set(changes)
        return self.chat

    def _changes(self, candidate: Candidate) -> Mapping[str, ParameterChange]:
        key = candidate.merge
        if key not in self._made:
            self._made[key] = self._merged(candidate)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]

    def _merged(self, candidate: Candidate) -> Mapping[str, ParameterChange]:
        """The merge at strength 1, by the engine, as differences of the loaded model's parameters."""
        recipe = candidate.recipe(self._asked, with_strengths=False).plain()
        recipe |= {"dtype": "float32", "output": {"format": "dense"}}
        with TemporaryDirectory(dir=self._scratch) as folder:
            merge(recipe, Path(folder) / "merged", Options(device=self._device))
            loaded = chat.load(Path(folder) / "merged", device=self._device, dtype="float32").model
        architecture = resolve(loaded.config.to_dict(), self._base)
        found = {}
        for name, value in loaded.state_dict().items():
            if value.is_floating_point() and not torch.equal(value, self._base[name]):
                component = architecture.role(name, tuple(value.shape)).component
                found[name] = ParameterChange(value - self._base[name], component)
        return found
