"""Stacked experts meet whatever way round a checkpoint stores them, and the output has the base's layout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import optmerge
from optmerge.architectures import Way
from optmerge.errors import CheckpointError
from worlds import samples
from worlds.models import build

STACKED = ".mlp.experts."
METHODS = ["average", "task_arithmetic", {"name": "ties", "trim": "model"}, "optmerge"]


def turned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.transpose(1, 2).contiguous() if STACKED in n else t for n, t in tensors.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts of Qwen3-VL-MoE as transformers 5 stores them, and each (`-4`) as 4 did."""
    folder = tmp_path_factory.mktemp("layouts")
    build("qwen3_vl_moe").save_pretrained(folder / "model")
    base = load_file(folder / "model" / "model.safetensors")
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(number)
        tensors = {n: t + 0.01 * number * torch.randn_like(t) for n, t in base.items()}
        for suffix, stored in (("", tensors), ("-4", turned(tensors))):
            shutil.copytree(folder / "model", folder / (name + suffix))
            save_file(stored, folder / (name + suffix) / "model.safetensors", {"format": "pt"})
    return folder


def merged(folders: Path, out: Path, method: object, base: str, *experts: str) -> dict[str, Tensor]:
    recipe = {
        "base": str(folders / base),
        "experts": [str(folders / each) for each in experts],
        "method": method,
        "select": {"components": None, "kinds": None},
    }
    optmerge.merge(recipe, out / f"{base}-{'-'.join(experts)}")
    return load_file(out / f"{base}-{'-'.join(experts)}" / "model.safetensors")


@pytest.mark.sampled
@pytest.mark.parametrize("method", samples.sample(METHODS, 2), ids=str)
def test_an_expert_in_the_other_layout_merges_to_the_same_bits(
    folders: Path, tmp_path: Path, method: object
) -> None:
    expected = merged(folders, tmp_path, method, "base", "one", "two")
    found = merged(folders, tmp_path, method, "base", "one", "two-4")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_output_has_the_bases_layout(folders: Path, tmp_path: Path) -> None:
    expected = turned(merged(folders, tmp_path, "task_arithmetic", "base", "one", "two"))
    found = merged(folders, tmp_path, "task_arithmetic", "base-4", "one", "two-4")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_tensor_copied_from_an_expert_is_turned_into_the_bases_layout(
    folders: Path, tmp_path: Path
) -> None:
    recipe = {
        "base": str(folders / "base"),
        "experts": [str(folders / "one"), str(folders / "two-4")],
        "method": "average",
        "rules": [{"match": {"include": [r"\.experts\."]}, "copy_from": "two-4"}],
    }
    optmerge.merge(recipe, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = load_file(folders / "two" / "model.safetensors")
    stacked = [name for name in expected if STACKED in name]
    assert stacked and all(torch.equal(found[name], expected[name]) for name in stacked)


def test_another_shape_is_still_refused(folders: Path, tmp_path: Path) -> None:
    tensors = load_file(folders / "one" / "model.safetensors")
    name = next(each for each in tensors if STACKED in each)
    tensors[name] = tensors[name][:, :-1].contiguous()
    shutil.copytree(folders / "one", tmp_path / "one")
    save_file(tensors, tmp_path / "one" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="has another shape"):
        optmerge.plan(
            {"base": str(folders / "base"), "experts": [str(tmp_path / "one")], "method": "average"}
        )


def test_routers_stay_the_bases_unless_they_are_named(folders: Path) -> None:
    recipe = {"base": str(folders / "base"), "experts": [str(folders / "one")], "method": "average"}
    router = "model.language_model.layers.0.mlp.gate.weight"

    def action(**select: list[str]) -> str:
        plan = optmerge.plan({**recipe, "select": select})
        return next(tensor.action.value for tensor in plan.tensors if tensor.name == router)

    assert (action(), action(kinds=["matrix", "router"])) == ("copy", "merge")


def test_a_declared_family_is_planned_without_transformers(folders: Path) -> None:
    recipe = {"base": str(folders / "base"), "experts": [str(folders / "one")], "method": "average"}
    with patch.dict(sys.modules, transformers=None):  # every import of it fails
        assert optmerge.plan(recipe).way is Way.DECLARED


@pytest.mark.slow
def test_a_declared_family_never_imports_transformers(folders: Path) -> None:
    code = (
        "import sys, optmerge; base, *experts = sys.argv[1:];"
        "optmerge.plan({'base': base, 'experts': experts, 'method': 'average'});"
        "sys.exit('transformers' in sys.modules)"
    )
    paths = [str(folders / "base"), str(folders / "one")]
    assert subprocess.run([sys.executable, "-c", code, *paths], check=False).returncode == 0
