"""Inputs that somebody writes to while they are read: an error, and no output made of two versions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge.engine.plan import TensorPlan
from optmerge.errors import CheckpointError
from worlds.merges import QUERY, UP, World, save_adapter, watching, weights, world

METHODS: dict[str, Any] = {
    "in one loop": "task_arithmetic",
    "in slices": "dare_task_arithmetic",
    "after a survey": {"name": "ties", "trim": "model"},
    "whole": {"name": "optmerge", "steps": 2},
}


def when_a_tensor_is_merged(action: Callable[[], object]) -> Callable[[TensorPlan, int], None]:
    """Acts once, as soon as the first tensor has been merged, for which every input is open."""
    left = [action]

    def tell(tensor: TensorPlan, size: int) -> None:
        if left and tensor.action == "merge":
            left.pop()()

    return tell


@pytest.fixture(params=["float32", "bfloat16"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    dtype = getattr(torch, request.param)
    return world(tmp_path, base={name: tensor.to(dtype) for name, tensor in weights().items()})


@pytest.mark.parametrize("index", [None, 0], ids=["base", "expert"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_checkpoint_that_shrinks_is_an_error(models: World, method: Any, index: int | None) -> None:
    file = (models.base if index is None else models.experts[index]) / "model.safetensors"
    shrink = when_a_tensor_is_merged(lambda: os.truncate(file, file.stat().st_size // 2))
    with pytest.raises(CheckpointError, match="the file ended inside tensor"):
        optmerge.merge(models.recipe(method=method), models.out, watch=watching(shrink))

    assert not models.out.exists()


@pytest.mark.parametrize("output", ["dense", "adapter"])
def test_an_adapter_that_shrinks_is_an_error(tmp_path: Path, output: str) -> None:
    models = world(tmp_path, experts=0)
    folders = [save_adapter(tmp_path / f"a{seed}", (QUERY, UP), seed=seed) for seed in (0, 1)]
    file = folders[1] / "adapter_model.safetensors"
    recipe = models.recipe(experts=[str(folder) for folder in folders], output=output)
    shrink = when_a_tensor_is_merged(lambda: os.truncate(file, file.stat().st_size - 8))
    with pytest.raises(CheckpointError, match="changed"):
        optmerge.merge(recipe, models.out, watch=watching(shrink))

    assert not models.out.exists()


@pytest.mark.parametrize("index", [None, 1], ids=["base", "expert"])
def test_a_checkpoint_that_is_written_to_meanwhile_is_an_error(models: World, index: int | None) -> None:
    file = (models.base if index is None else models.experts[index]) / "model.safetensors"

    def scribble() -> None:
        with file.open("r+b") as opened:
            opened.seek(-8, os.SEEK_END)
            opened.write(bytes(8))

    with pytest.raises(CheckpointError, match="the file changed while it was merged"):
        optmerge.merge(models.recipe(), models.out, watch=watching(when_a_tensor_is_merged(scribble)))

    assert not models.out.exists()


def test_a_checkpoint_that_is_gone_is_an_error(models: World) -> None:
    file = models.experts[0] / "model.safetensors"
    with pytest.raises(CheckpointError, match="No such file"):
        optmerge.merge(models.recipe(), models.out, watch=watching(when_a_tensor_is_merged(file.unlink)))

    assert not models.out.exists()


def test_an_adapter_that_is_saved_anew_is_an_error(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    folders = [save_adapter(tmp_path / f"a{seed}", (QUERY,), seed=seed) for seed in (0, 1)]
    file = folders[0] / "adapter_model.safetensors"
    again = when_a_tensor_is_merged(lambda: os.utime(file, ns=(1, 1)))
    recipe = models.recipe(experts=[str(folder) for folder in folders], output="adapter")
    with pytest.raises(CheckpointError, match="changed"):
        optmerge.merge(recipe, models.out, watch=watching(again))

    assert not models.out.exists()
