import json
from dataclasses import fields, replace

import numpy as np
import pytest

from optmerge.bench import records
from optmerge.bench.trials import cells
from optmerge.bench.trials.cells import Cell, Result, TaskScores, read_all, write
from optmerge.errors import InputError
from worlds import records as synthetic

CELL = Cell(
    line="full",
    model="ties",
    expert_set=1,
    split="test",
    n=11,
    tasks={"vqa": 1, "ocr": 2},
    weights={"base": "b", "vqa": "v"},
    scale=0.3,
    default=True,
    parameters={"keep": 0.2},
)
OTHER = {
    "line": "lora",
    "model": "tsv",
    "expert_set": 2,
    "split": "validation",
    "n": 12,
    "tasks": {"vqa": 2, "ocr": 2},
    "weights": {"base": "c", "vqa": "v"},
    "scale": 0.5,
    "default": False,
    "parameters": {"keep": 0.1},
    "protocol": 2,
}


def result(scores=None, cell=CELL) -> Result:
    scores = np.arange(cell.n) % 2.0 if scores is None else scores
    task = TaskScores(scores, {"colour": (0.5, 6), "count": (0.25, 5)}, {"exact_match": 0.4})
    return Result(cell, dict.fromkeys(cell.tasks, task), {"answer_seconds": 1.5}, merged="m")


def refused(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_all(folder)
    return str(caught.value)


def test_everything_that_decides_a_result_changes_its_identity():
    assert OTHER.keys() == {field.name for field in fields(Cell)}
    identities = {replace(CELL, **{name: value}).identity() for name, value in OTHER.items()}
    versions = records.versions()
    identities |= {CELL.identity({**versions, name: "0"}) for name in cells.DECIDING}
    assert len(identities | {CELL.identity()}) == len(OTHER) + len(cells.DECIDING) + 1
    assert CELL.identity() == CELL.identity({**versions, "numpy": "0"})


def test_a_cell_comes_back_as_it_was_written_with_its_identity(tmp_path):
    path = write(result(), tmp_path)
    (found,) = read_all(tmp_path)
    assert path.parent == tmp_path / "full"
    assert found.cell == CELL and found.cell.identity(found.versions) == CELL.identity()
    assert found.cost == {"answer_seconds": 1.5} and found.merged == "m" and found.error is None
    assert found.tasks["ocr"].scores.tolist() == [0.0, 1.0] * 5 + [0.0]
    assert found.tasks["ocr"].types == {"colour": (0.5, 6), "count": (0.25, 5)}
    assert found.tasks["ocr"].metrics == {"exact_match": 0.4}


def test_scores_between_none_and_all_come_back_too(tmp_path):
    scores = np.linspace(0, 1, 11)
    write(result(scores), tmp_path)
    assert read_all(tmp_path)[0].tasks["vqa"].scores.tolist() == pytest.approx(scores.tolist())


def test_a_thousand_answers_take_less_than_two_hundred_bytes(tmp_path):
    rng = np.random.default_rng(0)
    path = write(result((rng.random(1000) < 0.5).astype(float), replace(CELL, n=1000)), tmp_path)
    assert len(json.loads(path.read_text())["metrics"]["vqa"]["bits"]) < 200
    assert (
        read_all(tmp_path)[0].tasks["vqa"].scores.sum() == (np.random.default_rng(0).random(1000) < 0.5).sum()
    )


def test_a_failure_is_a_record_with_its_reason(tmp_path):
    write(Result(CELL, {}, {}, error="no such tensor"), tmp_path)
    (found,) = read_all(tmp_path)
    assert found.error == "no such tensor" and found.tasks == {} and found.cell == CELL


def test_records_are_added_and_read_oldest_first(tmp_path):
    for n in (11, 12, 13):
        write(result(np.zeros(n), replace(CELL, n=n)), tmp_path)
    assert [each.cell.n for each in read_all(tmp_path)] == [11, 12, 13]


def test_other_kinds_of_records_are_passed_over(tmp_path):
    record = records.new(kind="full/train", config={}, seeds={}, metrics={}, cost={}, weights={})
    records.write(record, tmp_path)
    assert read_all(tmp_path) == [] and read_all(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda value: value["config"].pop("line"),
        lambda value: value["config"].update(colour="red"),
        lambda value: value["metrics"].pop("vqa"),
        lambda value: value["metrics"]["vqa"].update(bits="!"),
        lambda value: value["metrics"]["vqa"].update(bits=""),
        lambda value: value["metrics"].update(vqa={"values": [0.5], "types": {}, "metrics": {}}),
        lambda value: value["metrics"].update(vqa={"values": [2.0] * 11, "types": {}, "metrics": {}}),
        lambda value: value["metrics"]["vqa"].update(types={"colour": 3}),
        lambda value: value["metrics"].update(vqa=7),
    ],
)
def test_a_damaged_record_is_refused_with_its_path(tmp_path, harm):
    path = write(result(), tmp_path)
    value = json.loads(path.read_text())
    harm(value)
    path.write_text(json.dumps(value))
    assert str(path) in refused(tmp_path) and "damaged" in refused(tmp_path)


def test_half_a_record_and_one_of_another_schema_are_refused_with_their_path(tmp_path):
    path = write(result(), tmp_path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert str(path) in refused(tmp_path)
    path.write_text(text.replace('"schema": 1', '"schema": 9'))
    assert str(path) in refused(tmp_path) and "another schema" in refused(tmp_path)


def test_synthetic_records_survive_the_disk(tmp_path):
    made = synthetic.line(n=20)
    for each in made:
        write(each, tmp_path)
    assert [each.cell for each in read_all(tmp_path)] == [each.cell for each in made]
