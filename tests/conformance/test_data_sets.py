"""What every registered data set promises, over a tiny one in its own format; the how-to page's example, too.

The rules are written down for authors in `optmerge.bench.tasks.real`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from optmerge.bench.tasks import SPLITS, DataSet, Split, registered
from optmerge.cli import run
from optmerge.errors import InputError
from worlds.videos import encode

NONSENSE = ("", "?", "xyzzy plugh", "[]", "(", "\n")
ROWS = 12
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-data-set.md"
TASK_ON_PAGE, MAKER_ON_PAGE = (
    block.split("```")[0] for block in PAGE.read_text("utf-8").split("```python\n")[1:3]
)
page: Any = ModuleType("chartqa_on_page")
sys.modules[page.__name__] = page  # pydantic looks the rows' types up in their module
exec(TASK_ON_PAGE, vars(page))
DATA_SETS = {name: task for name, task in registered().items() if isinstance(task, DataSet)}
DATA_SETS["chartqa"] = page.TASK
every_data_set = pytest.mark.parametrize("name", DATA_SETS)


def _avqa(folder: Path, split: Split) -> None:
    rows = [
        {
            "id": number,
            "video_name": f"{split}_{number:06d}",
            "video_id": number,
            "question_text": f"What happened in video {number}?",
            "multi_choice": ["rain", "a bell", "a drum", "a car"],
            "answer": number % 4,
            "question_relation": ("View", "Sound", "Both")[number % 3],
            "question_type": ("Happening", "Come From")[number % 2],
        }
        for number in range(ROWS)
    ]
    _write(folder, {"train": "train_qa.json", "test": "val_qa.json"}[split], rows, "video_name")


def _music_avqa(folder: Path, split: Split) -> None:
    rows = [
        {
            "video_id": f"{split}{number:08d}",
            "question_id": number,
            "type": ('["Audio", "Counting"]', '["Audio-Visual", "Temporal"]')[number % 2],
            "question_content": "How many <Object> sound?",
            "templ_values": '["flutes"]',
            "anser": ("one", "two", "three")[number % 3],
        }
        for number in range(ROWS)
    ]
    names = {"train": "avqa-train.json", "validation": "avqa-val.json", "test": "avqa-test.json"}
    _write(folder, names[split], rows, "video_id")


def _write(folder: Path, name: str, rows: list[dict[str, object]], key: str) -> None:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))
    for row in rows:
        (folder / "videos" / f"{row[key]}.mp4").touch()


exec(MAKER_ON_PAGE)
MAKERS: dict[str, Callable[[Path, Split], None]] = {
    "avqa": _avqa,
    "music_avqa": _music_avqa,
    "chartqa": globals()["_chartqa"],
}
"""Data set → (its folder, split) → writes a tiny one with `ROWS` rows."""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DataSet]:
    """Writes a tiny data set where the task looks for it, and gives the task."""
    monkeypatch.setenv("OPTMERGE_DATA", str(tmp_path))

    def write(name: str) -> DataSet:
        if name not in MAKERS:
            pytest.skip("a data set of another package, which knows its own format")
        for split in DATA_SETS[name].splits:
            MAKERS[name](tmp_path / name, split)
        return DATA_SETS[name]

    return write


@every_data_set
def test_right_answers_score_one_and_nonsense_none(name: str, made: Any) -> None:
    task = made(name)
    for split in task.splits:
        for item in task.items(split, ROWS):
            for metric in task.metrics.values():
                assert all(metric(answer, item.question) == 1.0 for answer in item.question.answers)
                assert all(metric(text, item.question) == 0.0 for text in NONSENSE)


@every_data_set
def test_items_come_in_one_order_drawn_for_each_split(name: str, made: Any) -> None:
    task = made(name)
    for split in task.splits:
        everything = list(task.items(split, ROWS + 5))
        assert len({item.where for item in everything}) == ROWS
        assert list(task.items(split, 5)) == everything[:5]
        rows = task.load(task.folder, split)
        assert sorted(item.where for item in rows) == sorted(item.where for item in everything)
        assert list(rows) != everything


@every_data_set
def test_an_item_has_a_picture_or_a_video_and_says_where_it_comes_from(name: str, made: Any) -> None:
    task = made(name)
    for item in task.items(task.splits[0], ROWS):
        assert (item.image is None) != (item.video is None)
        assert item.video is None or item.video.is_file()
        assert str(task.folder) in item.where and "row" in item.where
        assert item.question.type and (not task.types or item.question.type in task.types)


@every_data_set
def test_a_missing_folder_file_and_split_are_named(
    name: str, made: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = made(name)
    for split in set(SPLITS) - set(task.splits):
        with pytest.raises(InputError, match=f"no {split} split"):
            task.items(split, 1)
    for path in task.folder.rglob("*.json"):
        path.unlink()
    with pytest.raises(InputError, match=str(task.folder)):
        task.items(task.splits[0], 1)
    monkeypatch.setenv("OPTMERGE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=rf"isn't here[\s\S]*{tmp_path / 'nowhere' / name}"):
        task.items(task.splits[0], 1)


def test_a_data_set_can_be_looked_at(made: Any, tmp_path: Path) -> None:
    task = made("music_avqa")
    for path in (task.folder / "videos").iterdir():
        encode(path, seconds=0.2)
    sheet = tmp_path / "sheet.png"
    assert run(["bench", "preview", "music_avqa", "--split", "test", "--out", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.width == 6 * 240 and len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_task_without_its_data_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTMERGE_DATA", str(tmp_path))
    assert run(["bench", "preview", "avqa", "--split", "test", "--out", str(tmp_path / "a.png")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "avqa") in message and "OPTMERGE_DATA" in message
