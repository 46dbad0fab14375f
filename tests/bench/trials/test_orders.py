"""What a run is to do, and what is refused before it starts."""

import shutil
from collections import Counter

import pytest

from optmerge.bench import records
from optmerge.bench.lines import members
from optmerge.bench.trials.orders import QUICK_METHODS, VALIDATION, order
from optmerge.bench.trials.selection import SCALES
from optmerge.errors import CheckpointError, InputError
from optmerge.methods import registered
from worlds import records as synthetic

EXPERTS = [f"expert:{task}" for task in synthetic.TRAINED]


def cells(*arguments, **options):
    return [job.cell for job in order(*arguments, **options).jobs]


def test_everyone_is_asked_everything(zoo):
    found = cells(zoo, ["full"], [0], ["average", "tsv"])
    tests = [cell for cell in found if cell.split == "test"]
    assert [cell.model for cell in tests] == ["base", *EXPERTS, "mixture", "average", "tsv"]
    assert all(cell.tasks == synthetic.TASKS and cell.n == 1000 for cell in tests)
    assert tests[0].expert_set is None and {cell.expert_set for cell in tests[1:]} == {0}


def test_scales_are_tried_on_validation_questions_of_the_trained_tasks(zoo):
    found = [cell for cell in cells(zoo, ["full"], [0], ["average", "tsv"]) if cell.split == "validation"]
    assert [(cell.model, cell.scale) for cell in found] == [("tsv", scale) for scale in SCALES]
    assert all(list(cell.tasks) == synthetic.TRAINED and cell.n == VALIDATION for cell in found)
    assert [cell.scale for cell in found if cell.default] == [0.3]
    assert {cell.n for cell in cells(zoo, ["full"], [0], ["tsv"], n=20)} == {20}


def test_all_that_the_zoo_holds_is_compared_by_default_and_the_base_once(zoo):
    found = cells(zoo, [], [], ["average"])
    assert Counter((cell.line, cell.model) for cell in found)["full", "average"] == 2
    assert Counter((cell.line, cell.model) for cell in found)["full", "base"] == 1
    assert {cell.line for cell in found} == {"full", "lora"}


def test_every_method_that_fits_is_run_and_the_others_are_named(zoo):
    made = order(zoo, ["full"], [0], [], quick=True)
    assert {job.cell.model for job in made.jobs if job.cell.merged} == registered().keys() - {"slerp"}
    assert made.remarks == ("slerp merges exactly 2 experts and is left out",)
    assert not any(job.cell.split == "validation" for job in made.jobs)
    assert {job.cell.expert_set for job in made.jobs} == {None, 0}
    assert set(QUICK_METHODS) <= registered().keys()


def test_a_merge_knows_its_method_as_it_will_be_run_and_what_it_is_made_of(zoo):
    full, lora = (
        next(job for job in order(zoo, [line], [0], ["optmerge"], quick=True).jobs if job.cell.merged)
        for line in ("full", "lora")
    )
    assert (full.cell.scale, lora.cell.scale) == (0.1, 1.0) and full.cell.default and lora.cell.default
    assert full.cell.parameters["variant"] == "full" and lora.cell.parameters["variant"] == "lora"
    assert full.cell.weights == {
        "base": records.weights_hash(zoo / "full/base"),
        **{task: records.weights_hash(zoo / "full/experts/0" / task) for task in synthetic.TRAINED},
    }
    assert len(set(full.cell.weights.values())) == 6
    assert full.recipe["method"] == {"name": "optmerge"}
    assert [expert["name"] for expert in full.recipe["experts"]] == synthetic.TRAINED


def test_a_mixture_belongs_to_a_set_or_to_the_line_or_is_missing(zoo, tmp_path):
    (tmp_path / "zoo").mkdir()
    line = shutil.copytree(zoo / "full", tmp_path / "zoo/full")
    mixture = line / "mixture"
    shutil.move(mixture / "0", line / "experts/0/mixture")
    assert members("full", line.parent, 0).mixture == line / "experts/0/mixture"
    shutil.rmtree(line / "experts/0/mixture")
    assert order(line.parent, ["full"], [0], ["average"]).remarks == ("full set 0: no mixture in the zoo",)
    shutil.copytree(line / "base", mixture, dirs_exist_ok=True)
    (found,) = [
        c for c in cells(line.parent, ["full"], [], ["average"]) if c.model == "mixture" and not c.expert_set
    ]
    assert found.expert_set is None


@pytest.mark.parametrize("model", ["base", "experts/0/ocr", "mixture/0"])
def test_a_model_without_weights_is_refused(model, zoo, tmp_path):
    line = shutil.copytree(zoo / "full", tmp_path / "full")
    for path in (line / model).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=str(line / model)):
        order(tmp_path, ["full"], [0], ["average"])


def test_the_first_set_may_lie_beside_the_base_as_training_leaves_it(zoo, tmp_path):
    line = shutil.copytree(zoo / "lora", tmp_path / "lora")
    for task in synthetic.TRAINED:
        shutil.move(line / "experts/0" / task, line / task)
    (line / "experts/0").rmdir()
    shutil.copytree(zoo / "lora/experts/0", line / "experts/1")
    found = cells(tmp_path, [], [], ["average"])
    assert {cell.expert_set for cell in found if cell.merged} == {0, 1}
    assert members("lora", tmp_path, 0).experts["ocr"] == line / "ocr"
    shutil.rmtree(line / "mixture")
    shutil.copytree(zoo / "lora/mixture/0", line / "mixture")
    assert members("lora", tmp_path, 0).own_mixture and not members("lora", tmp_path, 1).own_mixture
    with pytest.raises(CheckpointError, match="experts/2/vqa"):
        order(tmp_path, ["lora"], [2], [])
    shutil.rmtree(line / "base")
    with pytest.raises(CheckpointError, match=f"train --line lora --out {line}"):
        order(tmp_path, ["lora"], [0], [])


@pytest.mark.parametrize(
    ("lines", "methods", "words"),
    [
        (["ful"], [], "did you mean 'full'"),
        (["full"], ["teis"], "did you mean 'ties'"),
        (["full"], ["slerp"], "exactly 2 experts"),
    ],
)
def test_unknown_names_are_refused(zoo, lines, methods, words):
    with pytest.raises(InputError, match=words):
        order(zoo, lines, [], methods)


def test_a_missing_model_is_named_with_the_command_that_makes_it(zoo, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        order(zoo, ["lora"], [3], [])
    assert str(zoo / "lora/experts/3/vqa") in str(caught.value)
    command = f"--line lora --seed 3 --base {zoo / 'lora/base'} --out {zoo / 'lora/experts/3'}"
    assert f"optmerge bench train {command}" in str(caught.value)
    with pytest.raises(CheckpointError, match="no models to compare"):
        order(tmp_path, [], [], [])
