"""What a run is to do, and what is refused before it starts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import optmerge
from optmerge.bench import records
from optmerge.bench.lines import members
from optmerge.bench.trials.jobs import QUICK_METHODS, VALIDATION, jobs
from optmerge.bench.trials.record_choice import SCALES
from optmerge.errors import CheckpointError, InputError
from optmerge.methods import registered
from worlds import records as synthetic

EXPERTS = [f"expert:{task}" for task in synthetic.TRAINED]


def asked(*arguments: Any, **options: Any) -> list[Any]:
    return [job.trial for job in jobs(*arguments, **options)[0]]


def test_everyone_is_asked_everything(zoo: Path) -> None:
    found = asked(zoo, ["full"], [0], ["average", "tsv"])
    tests = [trial for trial in found if trial.split == "test"]
    assert [trial.label for trial in tests] == ["base", *EXPERTS, "mixture", "average", "tsv"]
    assert all(trial.tasks == synthetic.TASKS and trial.n == 1000 for trial in tests)
    assert tests[0].expert_set is None and {trial.expert_set for trial in tests[1:]} == {0}


def test_scales_are_tried_on_validation_questions_of_the_trained_tasks(zoo: Path) -> None:
    found = [trial for trial in asked(zoo, ["full"], [0], ["average", "tsv"]) if trial.split == "validation"]
    assert [(trial.model, trial.scale) for trial in found] == [("tsv", scale) for scale in SCALES]
    assert all(list(trial.tasks) == synthetic.TRAINED and trial.n == VALIDATION for trial in found)
    assert [trial.scale for trial in found if trial.default] == [0.3]
    assert {trial.n for trial in asked(zoo, ["full"], [0], ["tsv"], n=20)} == {20}


def test_all_that_the_zoo_holds_is_compared_by_default_and_the_base_once(zoo: Path) -> None:
    found = asked(zoo, [], [], ["average"])
    assert Counter((trial.line, trial.model) for trial in found)["full", "average"] == 2
    assert Counter((trial.line, trial.model) for trial in found)["full", "base"] == 1
    assert {trial.line for trial in found} == {"full", "lora"}


def test_every_method_that_fits_is_run_and_the_others_are_named(zoo: Path) -> None:
    found, remarks = jobs(zoo, ["full"], [0], [], quick=True)
    merged = {job.trial.model for job in found if job.trial.kind == "merge"}
    assert merged == registered().keys() - {"slerp"}
    assert remarks == ["slerp merges exactly 2 experts and is left out"]
    assert not any(job.trial.split == "validation" for job in found)
    assert {job.trial.expert_set for job in found} == {None, 0}
    assert set(QUICK_METHODS) <= registered().keys()


def test_a_merge_knows_its_method_as_it_will_be_run_and_what_it_is_made_of(zoo: Path) -> None:
    full, lora = (
        next(job for job in jobs(zoo, [line], [0], ["optmerge"])[0] if job.experts)
        for line in ("full", "lora")
    )
    assert (full.trial.scale, lora.trial.scale) == (0.1, 1.0) and full.trial.default and lora.trial.default
    assert full.trial.parameters["variant"] == "full" and lora.trial.parameters["variant"] == "lora"
    assert full.trial.weights == {
        "base": records.weights_hash(zoo / "full/base"),
        **{task: records.weights_hash(zoo / "full/experts/0" / task) for task in synthetic.TRAINED},
    }
    assert len(set(full.trial.weights.values())) == 6
    assert full.recipe["method"] == {"name": "optmerge", "settings": "paper", "scale": 0.1}
    quick = next(job for job in jobs(zoo, ["lora"], [0], ["optmerge"], quick=True)[0] if job.experts)
    assert quick.recipe["method"] == {"name": "optmerge", "scale": "auto"}
    assert quick.trial.parameters["settings"] == "solved" and quick.trial.name.endswith(
        "optmerge ×auto, test"
    )
    assert [expert["name"] for expert in full.recipe["experts"]] == synthetic.TRAINED


def test_a_mixture_belongs_to_a_set_or_to_the_line_or_is_missing(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    line = shutil.copytree(zoo / "full", tmp_path / "zoo/full")
    mixture = line / "mixture"
    shutil.move(mixture / "0", line / "experts/0/mixture")
    assert members("full", line.parent, 0).mixture == line / "experts/0/mixture"
    shutil.rmtree(line / "experts/0/mixture")
    assert jobs(line.parent, ["full"], [0], ["average"])[1] == ["full set 0: no mixture in the zoo"]
    shutil.copytree(line / "base", mixture, dirs_exist_ok=True)
    (found,) = [
        c for c in asked(line.parent, ["full"], [], ["average"]) if c.model == "mixture" and not c.expert_set
    ]
    assert found.expert_set is None


@pytest.mark.parametrize("model", ["base", "experts/0/ocr", "mixture/0"])
def test_a_model_without_weights_is_refused(model: Any, zoo: Path, tmp_path: Path) -> None:
    line = shutil.copytree(zoo / "full", tmp_path / "full")
    for path in (line / model).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=str(line / model)):
        jobs(tmp_path, ["full"], [0], ["average"])


def test_the_first_set_may_lie_beside_the_base_as_training_leaves_it(zoo: Path, tmp_path: Path) -> None:
    line = shutil.copytree(zoo / "lora", tmp_path / "lora")
    for task in synthetic.TRAINED:
        shutil.move(line / "experts/0" / task, line / task)
    (line / "experts/0").rmdir()
    shutil.copytree(zoo / "lora/experts/0", line / "experts/1")
    found = asked(tmp_path, [], [], ["average"])
    assert {trial.expert_set for trial in found if trial.kind == "merge"} == {0, 1}
    assert members("lora", tmp_path, 0).experts["ocr"] == line / "ocr"
    shutil.rmtree(line / "mixture")
    shutil.copytree(zoo / "lora/mixture/0", line / "mixture")
    assert members("lora", tmp_path, 0).own_mixture and not members("lora", tmp_path, 1).own_mixture
    with pytest.raises(CheckpointError, match="experts/2/vqa"):
        jobs(tmp_path, ["lora"], [2], [])
    shutil.rmtree(line / "base")
    with pytest.raises(CheckpointError, match=f"train --line lora --out {line}"):
        jobs(tmp_path, ["lora"], [0], [])


@pytest.mark.parametrize(
    ("lines", "methods", "words"),
    [
        (["ful"], [], "did you mean 'full'"),
        (["full"], ["teis"], "did you mean 'ties'"),
        (["full"], ["slerp"], "exactly 2 experts"),
    ],
)
def test_unknown_names_are_refused(zoo: Path, lines: Any, methods: Any, words: Any) -> None:
    with pytest.raises(InputError, match=words):
        jobs(zoo, lines, [], methods)


def test_a_missing_model_is_named_with_the_command_that_makes_it(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        jobs(zoo, ["lora"], [3], [])
    assert str(zoo / "lora/experts/3/vqa") in str(caught.value)
    command = f"--line lora --seed 3 --base {zoo / 'lora/base'} --out {zoo / 'lora/experts/3'}"
    assert f"optmerge bench train {command}" in str(caught.value)
    with pytest.raises(CheckpointError, match="no models to compare"):
        jobs(tmp_path, [], [], [])


def test_a_scale_that_is_tried_knows_the_test_that_follows_if_it_is_the_best(zoo: Path) -> None:
    found, _ = jobs(zoo, ["full"], [0], ["ties"], n=77)
    tried = [job for job in found if job.trial.split == "validation"]
    (default,) = [job.trial for job in found if job.trial.model == "ties" and job.trial.split == "test"]
    for job in tried:
        assert (job.test.split, job.test.n, job.test.tasks) == ("test", 77, synthetic.TASKS)
        assert (job.test.scale, job.test.model) == (job.trial.scale, "ties")
        assert job.test.weights == job.trial.weights and job.test.parameters == job.trial.parameters
        assert (job.test == default) == job.trial.default
    assert sum(job.trial.default for job in tried) == 1


def test_methods_and_defaults_are_those_of_a_plan(zoo: Path) -> None:
    for line in ("full", "lora"):
        for job in jobs(zoo, [line], [0], [], quick=True)[0] + jobs(zoo, [line], [0], [])[0]:
            if job.experts and (job.trial.split == "test" or job.trial.default):
                use = optmerge.plan(job.recipe).methods[0]
                scale = "auto" if use.auto == "own" else use.scale
                assert (scale, dict(use.parameters)) == (job.trial.scale, job.trial.parameters)
