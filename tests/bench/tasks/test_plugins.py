"""Tasks of other packages: with the defaults they break nothing, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from optmerge.bench.demo import comparison as demo
from optmerge.bench.tasks import _task, drawn, get, registered
from optmerge.bench.trials.jobs import jobs
from optmerge.cli import run
from optmerge.errors import InputError
from worlds import random_zoo
from worlds.plugins import forget, install

SOURCE = """
import random
from PIL import Image
from optmerge.bench.tasks import SIDE, DrawnTask, Scene, held_apart
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring import metric, vqa

def plan(rng, split):
    return held_apart(rng, split, lambda rng: rng.randrange(10_000), lambda grey: grey)

def draw(grey):
    picture = Image.new("RGB", (SIDE, SIDE), (grey % 256, grey // 256, 0))
    return Scene(picture, (Question("how red is it?", (str(grey % 256),), "red"),), ())

TASK = DrawnTask("redness", "Redness", 1, ("red",), plan, draw, {"exact_match": metric(vqa.exact_match)})
"""


@pytest.fixture
def redness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "site", "optmerge.tasks", SOURCE)
    forget(monkeypatch, _task, "TASKS")


def test_a_task_with_the_defaults_comes_last_and_is_untrained(redness: None) -> None:
    names = list(registered())
    assert names[:6] == ["vqa", "geometry", "chart", "ocr", "grounding", "composition"]
    assert "redness" in names[6:] and "redness" in drawn()
    assert not get("redness").trained


@pytest.mark.usefixtures("without_processes")
def test_the_benchmark_and_the_demo_run_with_a_task_that_no_expert_was_trained_on(
    redness: None, tmp_path: Path
) -> None:
    zoo = random_zoo.make(tmp_path / "zoo", "lora", mixture=False)
    listed, _ = jobs(zoo, ["lora"], [0], ["average"])
    assert [job.trial.label for job in listed][1:6] == [f"expert:{task}" for task in random_zoo.TRAINED]
    assert all("redness" in job.trial.tasks for job in listed if job.trial.split == "test")
    found = demo.run(
        tmp_path / "demo",
        line="lora",
        zoo=zoo,
        n=1,
        methods=["average"],
        console=Console(record=True, width=220),
    )
    assert all(result.error is None and "redness" not in result.tasks for result in found)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "ModuleNotFoundError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("TASKS = ()", "TASK"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_broken_task_is_refused_by_name(
    source: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        install(patch, tmp_path / "site", "optmerge.tasks", source)
        forget(patch, _task, "TASKS")
        with pytest.raises(InputError, match=r"plug-in 'outsider' can't be loaded") as raised:
            registered()
        assert reason in str(raised.value)
        assert run(["bench", "preview", "vqa", "--out", str(tmp_path / "sheet.png")]) == 2
    assert "outsider" in capsys.readouterr().err
    assert "vqa" in registered()
