"""Every seed keeps the property, and so does what a short search from the seeds comes up with."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, assert_refused_or_read

HERE = Path(__file__).parent
SEEDS = sorted((HERE / "corpus").glob("*/*"))
SECONDS = 8


def test_every_target_has_seeds_and_all_seeds_a_target() -> None:
    assert {seed.parent.name for seed in SEEDS} == TARGETS.keys()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.parent.name}-{seed.name}")
def test_a_seed_is_refused_or_read(seed: Path) -> None:
    assert_refused_or_read(seed.parent.name, seed.read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_search_finds_nothing(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz", name, "--seconds", str(SECONDS), "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE.parent)])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20 * SECONDS)

    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
