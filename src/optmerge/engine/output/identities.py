"""What tells the inputs of a merge apart: hashes of their tensors, from bytes that are read anyway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from optmerge.checkpoints.digests import TensorDigests, combined
from optmerge.checkpoints.dtypes import DTYPES
from optmerge.checkpoints.reader import Reader
from optmerge.checkpoints.safetensors_format import TensorInfo
from optmerge.engine.output.folder import Noted
from optmerge.engine.plan import Action, Plan, TensorPlan
from optmerge.engine.planning.inputs import AdapterExpert, FullExpert, Inputs
from optmerge.engine.running.pool import Pool
from optmerge.engine.running.sources import Sources
from optmerge.recipe import BASE

PIECE_BYTES = 1 << 22


class Identities:
    """Digests of every input's tensors, filled by `readers` while the merge reads through them.

    Args:
        plan: what is merged how.
        inputs: what is read.
        noted: digests that the journal of an interrupted run holds.
    """

    def __init__(self, plan: Plan, inputs: Inputs, noted: Noted) -> None:
        self._plan, self._inputs = plan, inputs
        self.digests = {
            name: TensorDigests(tensors, noted.get(name)) for name, tensors in _tensors(inputs).items()
        }

    def known(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """What the journal notes with tensors of the base that are written: their digests, by model."""
        found: dict[str, dict[str, str]] = {model: {} for model in self.digests}
        for name in names:
            for model, own in self._stored(name):
                digest = self.digests[model].digest(own)
                if digest is not None:
                    found[model][own] = digest
        return {model: digests for model, digests in found.items() if digests}

    def _stored(self, name: str) -> list[tuple[str, str]]:
        """Models that store a tensor of the base in full, and its names there."""
        experts = (each for each in self._inputs.experts if isinstance(each, FullExpert))
        return [(BASE, name), *((each.name, each.tensors[name]) for each in experts if each.changes(name))]

    def finish(self, sources: Sources, pool: Pool) -> dict[str, dict[str, Any]]:
        """The identity of each model, when what the merge hasn't read of it has been read.

        An expert's covers all of its tensors. The base's leaves out what the result doesn't depend on:
        tensors in whose place experts' are averaged or copied, and all where the output is an adapter.
        """
        covered = {model: set(tensors) for model, tensors in _tensors(self._inputs).items()}
        covered[BASE] = {tensor.name for tensor in self._plan.tensors if self._depends_on_base(tensor)}
        for expert in self._inputs.experts:
            self._read_rest(sources.reader(expert.name), expert.name, covered[expert.name], pool)
        self._read_rest(sources.reader(BASE), BASE, covered[BASE], pool)
        return {model: self._identity(model, names) for model, names in covered.items()}

    def _depends_on_base(self, tensor: TensorPlan) -> bool:
        if self._plan.recipe.output.format == "adapter":
            return False
        experts = self._inputs.experts
        if tensor.action is Action.COPY and tensor.source != BASE:
            source = self._inputs.expert(tensor.source)
            return not (isinstance(source, FullExpert) and source.changes(tensor.name))
        if tensor.action is Action.MERGE and self._plan.use(tensor).method.merges_weights:
            return not all(isinstance(each, FullExpert) and each.changes(tensor.name) for each in experts)
        return True

    def _read_rest(self, reader: Reader, model: str, names: set[str], pool: Pool) -> None:
        digests, tensors = self.digests[model], _tensors(self._inputs)[model]

        def read(name: str) -> None:
            dtype = DTYPES[tensors[name].dtype]
            for first, last in list(digests.missing(name)):
                for start in range(first, last, PIECE_BYTES):
                    size = min(last - start, PIECE_BYTES) // dtype.itemsize
                    reader.fill(name, start // dtype.itemsize, torch.empty(size, dtype=dtype.torch))

        pool.each(read, [name for name in sorted(names) if digests.digest(name) is None])

    def _identity(self, model: str, covered: set[str]) -> dict[str, Any]:
        tensors = _tensors(self._inputs)[model]
        found = combined(tensors, {name: self.digests[model].digest(name) for name in covered})
        expert = None if model == BASE else self._inputs.expert(model)
        if isinstance(expert, AdapterExpert):  # whose configuration decides as much as its tensors
            config = json.dumps(expert.adapter.config, sort_keys=True)
            found = hashlib.sha256(f"{config}\n{found}".encode("utf-8", "surrogatepass")).hexdigest()
        return {"identity": found, "covers": {"tensors": len(covered), "of": len(tensors)}}


def _tensors(inputs: Inputs) -> dict[str, Mapping[str, TensorInfo]]:
    """Every model's stored tensors."""
    base = inputs.base.checkpoint if inputs.tokens is None else inputs.tokens.stored
    found: dict[str, Mapping[str, TensorInfo]] = {BASE: base.tensors}
    for each in inputs.experts:
        held = each.adapter if isinstance(each, AdapterExpert) else each.checkpoint
        found[each.name] = held.tensors
    return found
