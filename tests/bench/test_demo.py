from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from optmerge.bench.demo import comparison as demo
from optmerge.bench.demo import picture
from optmerge.bench.tasks import registered
from optmerge.bench.trials import trials
from optmerge.bench.trials.record_choice import SCALES
from optmerge.errors import CheckpointError
from optmerge.evaluate.scoring.boxes import Box


@pytest.mark.usefixtures("without_processes")
def test_the_demo_makes_a_table_a_picture_and_records(zoo: Path, tmp_path: Path) -> None:
    for _ in range(2):  # a second demo replaces the first
        console = Console(record=True, width=220)
        found = demo.run(
            tmp_path,
            line="lora",
            zoo=zoo,
            scales=tmp_path / "none",
            n=1,
            methods=["average"],
            console=console,
        )
        names = [result.trial.label for result in found]
        trained = [name for name, task in registered().items() if task.trained]
        assert sorted(names) == sorted(
            ["base", "average", "mixture", *(f"expert:{name}" for name in trained)]
        )
        text = console.export_text()
        for title in (registered()[name].title for name in trained):
            assert title in text
        assert len(trials.read_all(tmp_path / "records")) == len(found)
    with Image.open(tmp_path / "answers.png") as image:
        assert image.width > 5 * 224


@pytest.mark.usefixtures("without_processes")
def test_a_merge_is_shown_at_the_scale_that_records_found_best_too(zoo: Path, tmp_path: Path) -> None:
    """The sweep is made up: what counts is that the best of it is asked."""

    import numpy as np

    from optmerge.bench.trials.jobs import jobs as listed

    jobs = listed(zoo, ["lora"], [0], ["task_arithmetic"], n=1)[0]
    best = 0.7
    for job in jobs:
        if job.trial.split == "validation":
            right = float(job.trial.scale == best)
            tasks = {name: trials.TaskScores(np.full(job.trial.n, right), {}, {}) for name in job.trial.tasks}
            trials.write(trials.TrialResult(job.trial, tasks, {}), tmp_path / "scales")
    assert best in SCALES and sum(job.trial.split == "validation" for job in jobs) == len(SCALES)
    console = Console(record=True, width=220)
    found = demo.run(
        tmp_path / "demo",
        line="lora",
        zoo=zoo,
        scales=tmp_path / "scales",
        n=1,
        methods=["task_arithmetic"],
        console=console,
    )
    asked = {result.trial.scale: result.trial.default for result in found if result.trial.kind == "merge"}
    default = next(job.trial.scale for job in jobs if job.trial.default and job.trial.split == "test")
    assert asked == {default: True, best: False}
    assert "validation" in console.export_text()


def test_a_missing_zoo_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        demo.run(tmp_path / "out", zoo=tmp_path / "zoo")
    assert "optmerge bench train" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_card_shows_right_and_wrong_and_boxes_where_they_are(tmp_path: Path) -> None:
    answers = [
        picture.Answer("base", "[0, 0, 50, 50]", False, Box(0, 0, 0.5, 0.5)),
        picture.Answer("merged", "[50, 50, 99, 99]", True, Box(0.5, 0.5, 0.99, 0.99)),
    ]
    card = picture.Card(Image.new("RGB", (112, 112), "white"), "where is it?", "[50, 50, 99, 99]", answers)
    path = picture.draw(tmp_path / "new" / "sheet.png", "title", {"Grounding": [card], "OCR": [card]})
    with Image.open(path) as image:
        colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert {picture.RIGHT, picture.WRONG} <= colours
