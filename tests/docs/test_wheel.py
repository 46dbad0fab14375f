"""The wheel has all that the commands for merging need, and says what isn't in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from docs.blocks import ROOT

OPTIONAL = ("PIL", "accelerate", "av", "matplotlib", "optuna", "peft", "plotly", "tokenizers", "transformers")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked, where nothing but the core's requirements can be imported."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    (folder / "site/sitecustomize.py").write_text(f"import sys\n{blocked}")
    return folder / "site"


def ran(site: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optmerge.cli", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_wheel_plans_merges_and_verifies_with_the_core_alone(site: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert ran(site, tmp_path, "--version").stdout == f"optmerge {version}\n"
    lora = ROOT / "zoo/lora"
    models = ["--base", str(lora / "base"), "--expert", str(lora / "experts/0/ocr")]
    for words in (["plan", *models], ["merge", *models, "--out", "merged"], ["verify", "merged"]):
        done = ran(site, tmp_path, *words)
        assert done.returncode == 0, done.stderr
    assert "skipped" in done.stdout and "pip install 'optmerge[verify]'" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["bench", "demo"], ["bench", "table"], ["omni", "demo"], ["ask", "m", "what?"]]
)
def test_what_needs_more_says_what_to_install(words: list[str], site: Path, tmp_path: Path) -> None:
    done = ran(site, tmp_path, *words)
    assert done.returncode == 2 and "pip install 'optmerge[" in done.stderr and "Traceback" not in done.stderr


def test_the_citation_has_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text("utf-8")
