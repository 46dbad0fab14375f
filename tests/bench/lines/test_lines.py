"""Lines: what lies in a folder of models, lines of other packages, and where the shipped models are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import optmerge
from optmerge.bench import lines, records
from optmerge.bench.lines import _line
from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.tasks import get
from optmerge.bench.trials.jobs import jobs
from optmerge.errors import CheckpointError, InputError
from worlds import random_zoo
from worlds.plugins import forget, install

SOURCE = """
from functools import partial
from optmerge.bench.lines import Line, expert_sets, members
from optmerge.bench.lines.tiny.asking import load
from optmerge.bench.tasks import get

LINE = Line(
    name="mine",
    sets=partial(expert_sets, "mine"),
    members=partial(members, "mine"),
    load=partial(load, "lora"),
    tasks=lambda: {"ocr": get("ocr"), "vqa": get("vqa")},
)
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lora line, and a line of another package that has two experts."""
    folder = random_zoo.make(tmp_path_factory.mktemp("zoo"), "lora", mixture=False)
    shutil.copytree(folder / "lora", folder / "mine")
    for name in ("geometry", "chart", "grounding"):
        shutil.rmtree(folder / "mine/experts/0" / name)
    return folder


def test_a_line_of_another_package_has_the_experts_that_lie_there_and_its_own_tasks(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        install(patch, tmp_path, "optmerge.lines", SOURCE)
        forget(patch, _line, "LINES")
        assert [line.name for line in lines.held(zoo)] == ["lora", "mine"]
        made, remarks = jobs(zoo, ["mine"], [], ["average", "slerp"], n=4, quick=True)
        assert [job.trial.label for job in made] == [
            "base",
            "expert:vqa",
            "expert:ocr",
            "average",
            "slerp",
        ]
        assert all(set(job.trial.tasks) == {"ocr", "vqa"} for job in made)
        assert remarks == ["mine set 0: no mixture in the zoo"]
        base = zoo / "mine/base"
        model = lines.get("mine").load(base, base=base, device="cpu", dtype="float32")
        told = model.answers([get("ocr"), get("vqa")], "test", 3)
        assert [len(each.texts) for each in told] == [3, 3]
        assert told[1].questions == tuple(item.question for item in get("vqa").items("test", 3))
    with pytest.raises(InputError, match="unknown line 'mine'"):
        lines.get("mine")


def test_an_expert_that_a_line_lacks_is_said_and_the_others_are_compared(zoo: Path, tmp_path: Path) -> None:
    line = shutil.copytree(zoo / "lora", tmp_path / "lora")
    shutil.rmtree(line / "experts/0/chart")
    made, remarks = jobs(tmp_path, ["lora"], [0], ["average"], n=4, quick=True)
    assert [name for name in random_zoo.TRAINED if name != "chart"] == list(made[-1].experts or ())
    assert "lora set 0: no expert of chart in the zoo" in remarks


def test_a_broken_line_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "optmerge.lines", "LINE = nothing")
    forget(monkeypatch, _line, "LINES")
    with pytest.raises(InputError, match="plug-in 'outsider' can't be loaded"):
        lines.registered()


def test_models_are_made_where_the_device_says(zoo: Path) -> None:
    base = zoo / "lora/base"
    model, _ = tiny_models.load("lora", base, device="meta", dtype=torch.bfloat16)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_folder_is_of_the_line_that_it_is_asked_as(zoo: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model of the full line[\s\S]*qwen2_vl[\s\S]*internvl"):
        tiny_models.load("full", zoo / "lora/base")


@pytest.mark.slow
def test_an_installed_package_says_that_the_models_arent_in_it(tmp_path: Path) -> None:
    """In somebody's project that happens to have a folder `zoo`, which isn't ours."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "zoo" / "full").mkdir(parents=True)
    site = tmp_path / ".venv/lib/python3.11/site-packages"
    package = Path(optmerge.__file__).parent
    shutil.copytree(package, site / "optmerge", ignore=shutil.ignore_patterns("__pycache__"))
    ran = subprocess.run(
        [sys.executable, "-m", "optmerge.cli", "bench", "demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2, ran.stderr
    assert "aren't part of the installed package" in ran.stderr and str(site / "optmerge") in ran.stderr
    assert "--zoo" in ran.stderr and "clone" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkout_has_its_models_beside_it() -> None:
    tree = records.source_tree()
    assert tree is not None and (tree / "src/optmerge").samefile(Path(optmerge.__file__).parent)
    assert lines.default_zoo() == tree / "zoo"
