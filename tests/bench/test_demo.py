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
        console = Console(record=True, width=80)
        found = demo.run(
            tmp_path,
            line="lora",
            zoo=zoo,
            n=2,
            methods=["average"],
            console=console,
        )
        trained = [name for name, task in registered().items() if task.trained]
        asked = {result.trial.name: set(result.trial.tasks) for result in found}
        chosen = {"lora set 0: swudi ×auto, validation", "lora set 0: average ×1, validation"}
        mixture = next(name for name in asked if "mixture" in name)  # of the line, or of a set
        whole = {"lora: base, test", "lora set 0: swudi ×auto, test", mixture}
        experts = {f"lora set 0: expert:{name}, test": {name} for name in trained}
        assert {name: asked[name] for name in experts} == experts
        others = {name: set(trained) for name in (*whole, *chosen)}
        assert {name: asked[name] for name in others} == others
        assert set(asked) - set(others) - set(experts) <= {"lora set 0: average ×1, test"}
        lines = console.export_text().splitlines()
        assert max(len(line) for line in lines[: lines.index("") + 4]) <= 80
        rows = [line for line in lines if line.startswith(("base", "its own", "merged", "trained on"))]
        assert len(rows) == 5 and all(registered()[name].title in lines[0] for name in trained)
        assert len(trials.read_all(tmp_path / "records")) == len(found)
    with Image.open(tmp_path / "answers.png") as image:
        assert image.width > 5 * 224  # a column a capability


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
