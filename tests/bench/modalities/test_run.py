"""`optmerge omni run` and `table` from the command line, on tiny models, and on answers made up for them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optmerge.bench.modalities import jobs
from optmerge.bench.modalities.exam import Needs
from optmerge.bench.modalities.jobs import INPUTS, GivenTask, tasks
from optmerge.bench.modalities.rows import best, gain, kept, scores_of_modalities
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials import jobs as trial_jobs
from optmerge.bench.trials import record_choice
from optmerge.bench.trials import run as trial_run
from optmerge.bench.trials.trials import BASE, Kind, TaskScores, Trial, TrialResult, read_all, write
from optmerge.cli import run
from optmerge.omni.compose import compose
from worlds.samples import sample

KEYS = ["model", "family", "needs", "inputs", "score", "low", "high", "n"]
N = 40


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = run(["omni", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def made_up(
    kind: Kind, model: str, given: tuple[Needs, ...], skill: float, scale: float | None = None
) -> TrialResult:
    """A model that knows what it can know with some skill, and guesses the rest."""
    rng = np.random.default_rng(len(model) + int(100 * skill))
    trial = Trial(
        line=jobs.LINE,
        kind=kind,
        model=model,
        expert_set=None,
        split="test",
        n=N,
        tasks=tasks(given),
        weights={"base": "a"},
        scale=scale,
        default=kind == "merge",
        benchmark="modalities",
    )
    scores = {}
    for name in trial.tasks:
        task = GivenTask.named(name)
        share = skill if set(task.needs) <= set(task.given) else 0.4
        right = (rng.random(N) < share).astype(float)
        scores[name] = TaskScores(right, {}, {"accuracy": float(right.mean()), "chance": 0.4})
    return TrialResult(trial, scores, {"answer_seconds": 1.0, "merge_seconds": 1.0})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write(made_up("base", BASE, ((),), 0.4), folder)
    for each in MODALITIES:
        write(made_up("expert", each, ((), (each,)), 0.95), folder)
    write(made_up("merge", "naivemc", INPUTS, 0.6), folder)
    write(made_up("merge", "ties", INPUTS, 0.9, 0.3), folder)
    failed = made_up("merge", "optmerge", INPUTS, 0.9, 0.1)
    write(TrialResult(failed.trial, {}, {}, error="it burst"), folder)
    return folder


def test_a_tasks_name_is_read_back_as_it_was_written() -> None:
    for needs in NEEDS:
        for given in INPUTS:
            assert GivenTask.named(str(GivenTask(needs, given))) == GivenTask(needs, given)
    assert str(GivenTask(("audio", "video"), ("audio",))) == "audio+video|audio"
    assert str(GivenTask(("image",), ())) == "image|nothing"


@pytest.mark.usefixtures("without_processes", "short_answers")
def test_a_run_is_recorded_once_and_its_failures_are_told_and_tried_again(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = shutil.copytree(trained[0], tmp_path / "zoo")
    command = ["run", "--n", "2", "--jobs", "1", "--zoo", zoo, "--out", tmp_path / "records"]
    command += [
        "--scratch",
        tmp_path / "scratch",
        "--method",
        "damc",
        "--method",
        "task_arithmetic",
        "--quick",
        "--keep",
    ]
    # DAMC alone can't keep apart what isn't plain LoRA.
    settings = json.loads((zoo / "audio/adapter_config.json").read_text())
    (zoo / "audio/adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    assert run(["omni", *map(str, command)]) == 1
    assert "trials failed; run again to retry" in capsys.readouterr().err
    (zoo / "audio/adapter_config.json").write_text(json.dumps(settings))
    shown = output(capsys, *command)
    assert "damc" in shown and "base (blind)" in shown
    results = read_all(tmp_path / "records", benchmark="modalities")
    done = [result.trial.model for result in results if result.error is None]
    assert sorted(done) == sorted([BASE, *MODALITIES, "damc", "task_arithmetic"])
    merged = next(result for result in results if result.trial.model == "damc" and result.error is None)
    assert set(merged.tasks) == set(tasks(INPUTS)) and merged.merged
    [said] = (json.loads(path.read_text()) for path in (tmp_path / "scratch").glob("*-damc-*/answers.json"))
    assert {name: len(each) for name, each in said.items()} == dict.fromkeys(merged.tasks, 2)
    assert set(said["audio|audio"][0]) == {"clip", "question", "family", "said", "right"}
    file = tmp_path / "records/lora/trials.jsonl"
    before = file.read_bytes()
    output(capsys, *command)
    assert file.read_bytes() == before


@pytest.mark.sampled
@pytest.mark.usefixtures("without_processes", "short_answers")
def test_a_scale_is_chosen_on_the_validation_split_and_then_tested(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = sample(record_choice.SCALES, 2)
    for module in (trial_jobs, record_choice, trial_run):
        monkeypatch.setattr(module, "SCALES", tuple(tried))
    command = ["run", "--n", "1", "--jobs", "2", "--zoo", trained[0], "--out", tmp_path / "records"]
    shown = output(capsys, *command, "--scratch", tmp_path / "scratch", "--method", "task_arithmetic")
    results = read_all(tmp_path / "records", benchmark="modalities")
    swept = {each.trial.scale for each in results if each.trial.split == "validation"}
    assert swept == set(tried) and "validation" in shown
    found = scores_of_modalities(results)
    assert found is not None and {each.rule for each in found.merges} == {"fixed", "validation"}


def test_a_default_scale_is_the_one_that_a_composition_takes(trained: Any, tmp_path: Path) -> None:
    listed, _ = jobs.jobs(trained[0], ["optmerge", "ties"], n=1)
    for name in ("optmerge", "ties"):
        found = {job.trial.scale for job in listed if job.trial.model == name and job.trial.default}
        recipe = next(job.recipe for job in listed if job.trial.model == name and job.trial.default)
        result = compose(recipe, tmp_path / name).result
        assert result is not None and found == {use.scale for use in result.plan.methods if use}


def test_json_is_one_list_of_rows_with_every_subset_of_the_inputs(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(output(capsys, "table", "--records", recorded, "--json"))
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows)
    given = {(row["model"], row["inputs"]) for row in rows}
    assert len([1 for model, _ in given if model == "ties"]) == 8
    assert {inputs for model, inputs in given if model == "expert:audio"} == {"nothing", "audio"}
    assert {inputs for model, inputs in given if model == BASE} == {"nothing"}
    for row in rows:
        if row["model"] == "optmerge":
            assert row["score"] is None
        else:
            assert row["low"] <= row["score"] <= row["high"]
    whole = [row for row in rows if row["family"] == "all"]
    assert {row["n"] for row in whole} == {N} and {row["needs"] for row in whole} == {
        "+".join(needs) for needs in NEEDS
    }
    for row in whole:
        parts = [
            each
            for each in rows
            if each["family"] != "all"
            and [each[key] for key in ("model", "needs", "inputs")]
            == [row[key] for key in ("model", "needs", "inputs")]
        ]
        assert sum(each["n"] for each in parts) == N
        if row["score"] is not None:
            assert sum(each["n"] * each["score"] for each in parts) == pytest.approx(
                N * row["score"], abs=1e-3
            )


def test_tables_show_what_is_gained_lost_and_needed(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = output(capsys, "table", "--records", recorded)
    for words in (
        "base (blind)",
        "Audio expert",
        "chance",
        "failed",
        "% of its own expert's score",
        "ties 0.3 by what is given",
        "the best single one",
        "own scores ties keeps",
    ):
        assert words in shown, words
    markdown = output(capsys, "table", "--records", recorded, "--markdown", "--model", "naivemc")
    assert "### naivemc by what is given" in markdown and "| audio+video+image |" in markdown
    assert r"\toprule" in output(capsys, "table", "--records", recorded, "--latex")
    rows = list(csv.DictReader(io.StringIO(output(capsys, "table", "--records", recorded, "--csv"))))
    assert list(rows[0])[: len(KEYS)] == KEYS


def test_the_papers_form_has_its_rows_in_its_order(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = output(capsys, "table", "--records", recorded, "--paper", "--markdown").splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert names == ["Vision expert", "Audio expert", "Video expert", "optmerge", "ties", "naivemc"]


def test_what_is_kept_and_gained_is_measured_against_the_experts(recorded: Path) -> None:
    found = scores_of_modalities(read_all(recorded, benchmark="modalities"))
    assert found is not None
    winner = best(found)
    assert winner is not None and winner.model == "ties"
    for own, share in kept(winner, found.experts).items():
        assert 0.7 < share.score < 1.2 and (own in MODALITIES or own == "all")
    compared = gain(winner, found.experts, ("audio", "video"))
    assert compared is not None and compared[1].mean > 0.2 and compared[1].p < 0.05


def test_a_table_of_nothing_says_how_to_make_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["omni", "table", "--records", str(tmp_path)]) == 2
    assert "optmerge omni run" in capsys.readouterr().err


def test_an_unknown_model_or_two_forms_are_refused(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--model", "tiess"], ["--csv", "--json"], ["--paper", "--json"]):
        assert run(["omni", "table", "--records", str(recorded), *more]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_zoo_without_an_expert_says_how_to_train_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["omni", "run", "--zoo", str(tmp_path)]) == 2
    assert "optmerge omni train" in capsys.readouterr().err


def test_every_method_that_merges_three_experts_is_run(trained: Any) -> None:
    listed, remarks = jobs.jobs(trained[0])
    names = {job.trial.model for job in listed}
    assert {"naivemc", "damc", "ties", "dare_ties", "tsv", "iso_c", "wudi", "optmerge"} <= names
    assert "average" not in names and "slerp" not in names
    assert [remark for remark in remarks if "slerp" in remark]
