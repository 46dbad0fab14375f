"""The command line reproduces the numbers of the published reference implementations, from file to file.

The error of a tensor is ‖out − expected‖ / ‖expected − base‖, as for the methods alone in parity/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import Write
from optmerge.cli import run
from worlds.lapack_noise import DEFICIENT, reference

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
CASES = ("qwen2_vl_lora", "internvl_full")
ELEMENTWISE, SOLVER = 1e-6, 1e-4

METHODS: dict[str, tuple[float, dict[str, Any]]] = {
    "average": (ELEMENTWISE, {"name": "average"}),
    "task_arithmetic": (ELEMENTWISE, {"name": "task_arithmetic", "scale": 0.3}),
    "ties_tensorwise": (ELEMENTWISE, {"name": "ties", "keep": 0.2, "scale": 0.3}),
    "ties_modelwise": (ELEMENTWISE, {"name": "ties", "keep": 0.2, "trim": "model", "scale": 1.0}),
    "tsv": (SOLVER, {"name": "tsv", "scale": 0.3}),
    "iso_c": (SOLVER, {"name": "iso_c", "scale": 0.3}),
    "wudi": (SOLVER, {"name": "wudi", "scale": 0.3, "lr": 1e-5, "steps": 300}),
    "optmerge_lora": (SOLVER, {"name": "optmerge", "settings": "paper", "variant": "lora", "scale": 1.0}),
    "optmerge_full": (SOLVER, {"name": "optmerge", "settings": "paper", "variant": "full", "scale": 0.1}),
    "swudi": (SOLVER, {"name": "swudi", "scale": 0.2, "time": 300, "rank_fraction": 0.65}),
    "swudi_mean_init_trunc085": (
        SOLVER,
        {"name": "swudi", "scale": 1.0, "time": 300, "rank_fraction": 0.85, "start": "mean"},
    ),
} | {
    f"aswudi_{rule}": (SOLVER, {"name": "aswudi", "scale": 0.2, "rank_rule": rule})
    for rule in ("participation_sqrt", "stable_rank", "entropy", "cumvar_0.9", "gavish_donoho")
}

AMPLIFIED = ("qwen2_vl_lora", "aswudi_gavish_donoho", "model.layers.0.mlp.down_proj.weight")
"""Rounding of the reference in float32, at an eigenvalue of 2e-4; see parity/test_methods.py."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    """TSV and Iso-C of rank-deficient deltas follow LAPACK's noise, hence the reference's thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@cache
def base_of(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / case / "base.safetensors")


def deltas_of(case: str, tensor: str) -> list[Tensor]:
    experts = sorted((GOLDEN / case).glob("expert_*.safetensors"))
    return [load_file(expert)[tensor] - base_of(case)[tensor] for expert in experts]


def recipe_of(case: str, name: str) -> dict[str, Any]:
    folder = GOLDEN / case
    facts = json.loads((folder / "case.json").read_text())
    select = {"components": ["other"], "exclude": [f"^{regex}" for regex in facts["exclude_regex"]]}
    if name == "iso_c":  # the reference leaves vectors alone
        select["kinds"] = ["matrix"]
    return {
        "base": str(folder / "base.safetensors"),
        "experts": [str(folder / f"expert_{index}.safetensors") for index in range(facts["n_experts"])],
        "method": METHODS[name][1],
        "select": select,
    }


def assert_golden(case: str, name: str, merged: Path) -> None:
    base, found = base_of(case), load_file(merged / "model.safetensors")
    expected = load_file(GOLDEN / case / f"expected_{name}.safetensors")
    assert found.keys() == base.keys()
    for tensor in base:
        if tensor not in expected:
            assert torch.equal(found[tensor], base[tensor]), f"{tensor} is not the base's"
            continue
        wanted = expected[tensor]
        if (case, name) in DEFICIENT:
            wanted = reference(name, base[tensor], deltas_of(case, tensor), wanted)
        change = (wanted - base[tensor]).double().norm()
        error = float((found[tensor].double() - wanted.double()).norm() / change)
        bound = 5e-4 if (case, name, tensor) == AMPLIFIED else METHODS[name][0]
        assert error <= bound, f"{tensor}: {error:.2e}"


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_a_merge_by_recipe_agrees_with_the_reference(
    case: str, name: str, tmp_path: Path, recipe_file: Write
) -> None:
    recipe = recipe_file(**recipe_of(case, name))

    assert run(["merge", str(recipe), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert_golden(case, name, tmp_path / "out")


def test_the_installed_command_agrees_with_the_reference(tmp_path: Path, recipe_file: Write) -> None:
    recipe = recipe_file(**recipe_of("internvl_full", "optmerge_full"))
    command = [sys.executable, "-m", "optmerge.cli", "merge", str(recipe), "--out", str(tmp_path / "out")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "tensors merged" in done.stdout
    assert_golden("internvl_full", "optmerge_full", tmp_path / "out")


@pytest.mark.parametrize("case", CASES)
def test_every_golden_file_is_compared(case: str) -> None:
    files = {path.stem.removeprefix("expected_") for path in (GOLDEN / case).glob("expected_*")}
    assert files == set(METHODS)
