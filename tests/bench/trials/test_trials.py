from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optmerge.bench import records
from optmerge.bench.trials import trials
from optmerge.bench.trials.trials import TaskScores, Trial, TrialResult, read_all, write
from optmerge.errors import InputError
from worlds import records as synthetic

TRIAL = Trial(
    line="full",
    kind="merge",
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
    "kind": "expert",
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
    "benchmark": "modalities",
}


def result(scores: Any = None, trial: Any = TRIAL) -> TrialResult:
    scores = np.arange(trial.n) % 2.0 if scores is None else scores
    task = TaskScores(scores, {"colour": (0.5, 6), "count": (0.25, len(scores) - 6)}, {"exact_match": 0.4})
    return TrialResult(trial, dict.fromkeys(trial.tasks, task), {"answer_seconds": 1.5}, merged="m")


def refused(folder: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_all(folder)
    return str(caught.value)


def test_everything_that_decides_a_result_changes_its_identity() -> None:
    assert OTHER.keys() == {field.name for field in fields(Trial)}
    identities = {replace(TRIAL, **{name: value}).identity() for name, value in OTHER.items()}
    versions = records.versions()
    identities |= {TRIAL.identity({**versions, name: "0"}) for name in trials.DECIDING}
    assert len(identities | {TRIAL.identity()}) == len(OTHER) + len(trials.DECIDING) + 1
    assert TRIAL.identity() == TRIAL.identity({**versions, "numpy": "0"})


def test_a_trial_comes_back_as_it_was_written_with_its_identity(tmp_path: Path) -> None:
    path = write(result(), tmp_path)
    (found,) = read_all(tmp_path)
    assert path == tmp_path / "full/trials.jsonl"
    assert found.trial == TRIAL and found.trial.identity(found.versions) == TRIAL.identity()
    assert found.cost == {"answer_seconds": 1.5} and found.merged == "m" and found.error is None
    assert found.tasks["ocr"].scores.tolist() == [0.0, 1.0] * 5 + [0.0]
    assert found.tasks["ocr"].types == {"colour": (0.5, 6), "count": (0.25, 5)}
    assert found.tasks["ocr"].metrics == {"exact_match": 0.4}


def test_scores_between_none_and_all_come_back_too(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 11)
    write(result(scores), tmp_path)
    assert read_all(tmp_path)[0].tasks["vqa"].scores.tolist() == pytest.approx(scores.tolist())


def test_a_data_set_with_fewer_questions_than_were_asked_for_comes_back_whole(tmp_path: Path) -> None:
    write(result(np.arange(9) % 2.0, replace(TRIAL, n=500)), tmp_path)
    (found,) = read_all(tmp_path)
    assert found.trial.n == 500 and found.tasks["vqa"].scores.tolist() == [0.0, 1.0] * 4 + [0.0]


def test_a_thousand_answers_take_less_than_two_hundred_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write(result((rng.random(1000) < 0.5).astype(float), replace(TRIAL, n=1000)), tmp_path)
    assert len(json.loads(path.read_text())["metrics"]["vqa"]["bits"]) < 200
    assert (
        read_all(tmp_path)[0].tasks["vqa"].scores.sum() == (np.random.default_rng(0).random(1000) < 0.5).sum()
    )


def test_a_failure_is_a_record_with_its_reason(tmp_path: Path) -> None:
    write(TrialResult(TRIAL, {}, {}, error="no such tensor"), tmp_path)
    (found,) = read_all(tmp_path)
    assert found.error == "no such tensor" and found.tasks == {} and found.trial == TRIAL


def test_records_are_added_and_read_oldest_first(tmp_path: Path) -> None:
    for n in (11, 12, 13):
        write(result(np.zeros(n), replace(TRIAL, n=n)), tmp_path)
    assert [each.trial.n for each in read_all(tmp_path)] == [11, 12, 13]


def test_other_kinds_of_records_are_passed_over(tmp_path: Path) -> None:
    record = records.new(kind="full/train", config={}, seeds={}, metrics={}, cost={}, weights={})
    records.append(record, tmp_path / "trials.jsonl")
    write(result(trial=replace(TRIAL, benchmark="modalities")), tmp_path)
    assert read_all(tmp_path) == [] and read_all(tmp_path / "nothing") == []
    assert [each.trial.benchmark for each in read_all(tmp_path, benchmark="modalities")] == ["modalities"]


def test_several_folders_are_read_as_one_and_the_same_one_once(tmp_path: Path) -> None:
    for n, folder in ((12, "b"), (11, "a"), (13, "b")):
        write(result(np.zeros(n), replace(TRIAL, n=n)), tmp_path / folder)
    found = read_all(tmp_path / "a", tmp_path / "b", tmp_path)
    assert [each.trial.n for each in found] == [12, 11, 13]


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
def test_a_damaged_record_is_refused_with_its_file_and_line(tmp_path: Path, harm: Any) -> None:
    write(result(), tmp_path)
    path = write(result(), tmp_path)
    first, second = path.read_text().splitlines()
    value = json.loads(second)
    harm(value)
    path.write_text(f"{first}\n{json.dumps(value)}\n")
    assert f"{path}, line 2" in refused(tmp_path) and "damaged" in refused(tmp_path)


def test_synthetic_records_survive_the_disk(tmp_path: Path) -> None:
    made = synthetic.line(n=20)
    for each in made:
        write(each, tmp_path)
    assert [each.trial for each in read_all(tmp_path)] == [each.trial for each in made]


def test_the_shipped_records_are_found_as_they_would_be_run() -> None:
    """A trial's identity is worked out from what a record says, so a run knows what is finished."""
    found = read_all(*records.shipped("bench"))
    assert len({each.trial.identity(each.versions) for each in found}) == len(found) == 541
    kinds = {(each.trial.kind, each.trial.scale is None) for each in found}
    assert kinds == {("base", True), ("expert", True), ("mixture", True), ("merge", False)}
    composed = read_all(*records.shipped("omni"), benchmark="modalities")
    assert {each.trial.model for each in composed if each.trial.scale is None and each.merged} == {
        "naivemc",
        "damc",
    }
