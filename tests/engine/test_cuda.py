"""On a CUDA device: the same merge as on the processor, within the solvers' tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge import Options
from optmerge.methods import registered
from worlds.merges import load, world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
EVERYTHING = {"kinds": ["matrix", "embedding", "head", "norm", "bias", "conv", "other"]}
TOLERANCE = 1e-4


@pytest.mark.parametrize("method", [name for name, each in registered().items() if each.exactly is None])
def test_cuda_gives_the_merge_of_the_processor(method: str, tmp_path: Path) -> None:
    models = world(tmp_path)
    options: dict[str, Any] = {"name": method}
    if "steps" in registered()[method].parameters.model_fields:
        options["steps"] = 20
    recipe = models.recipe(method=options, select=EVERYTHING)
    expected = load(optmerge.merge(recipe, models.out).path)
    found = load(optmerge.merge(recipe, tmp_path / "cuda", Options(device="cuda")).path)
    base = load(models.base)

    for name, tensor in expected.items():
        change = (tensor - base[name]).float().norm()
        assert (found[name] - tensor).float().norm() <= TOLERANCE * change + 1e-6, name


def test_two_cuda_merges_give_the_same_bytes(tmp_path: Path) -> None:
    models = world(tmp_path)
    recipe = models.recipe(method="optmerge", select=EVERYTHING)
    first = optmerge.merge(recipe, models.out, Options(device="cuda")).path / "model.safetensors"
    second = optmerge.merge(recipe, tmp_path / "again", Options(device="cuda")).path / "model.safetensors"

    assert first.read_bytes() == second.read_bytes()
