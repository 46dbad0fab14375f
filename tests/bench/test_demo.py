from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from optmerge.bench.demo import comparison as demo
from optmerge.bench.demo import picture
from optmerge.bench.tasks import registered
from optmerge.bench.trials import trials
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
            n=2,
            methods=["average", "swudi"],
            console=console,
        )
        names = [result.trial.label for result in found]
        trained = [name for name, task in registered().items() if task.trained]
        assert sorted(names) == sorted(
            ["base", "average", "swudi", "mixture", *(f"expert:{name}" for name in trained)]
        )
        merges = {each.trial.model: each.trial.scale for each in found if each.trial.kind == "merge"}
        assert merges == {"average": 1.0, "swudi": "auto"}
        text = console.export_text()
        for title in (registered()[name].title for name in trained):
            assert title in text
        assert len(trials.read_all(tmp_path / "records")) == len(found)
    with Image.open(tmp_path / "answers.png") as image:
        assert image.width > 5 * 224


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
