"""`optmerge tune` on models made at random: the search, what it keeps, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import optmerge
from optmerge.bench.exporting import export
from optmerge.bench.tasks import get
from optmerge.cli import run
from optmerge.errors import InputError, OutputError
from optmerge.evaluate import chat
from optmerge.evaluate.question_files import FileQuestion, read_questions
from optmerge.recipe import parse_recipe
from optmerge.tune.candidates import Candidate, Space
from optmerge.tune.labels import answered_by_experts
from optmerge.tune.study import Search, Tried, best_of, locked, pareto, search
from optmerge.tune.subject import Subject
from optmerge.tune.tuning import divided


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions of two tasks."""
    folder = tmp_path_factory.mktemp("q") / "asked"
    return export([get("vqa"), get("ocr")], "validation", 6, folder)


@pytest.fixture(scope="module")
def recipe(zoo: Path) -> dict[str, Any]:
    experts = zoo / "full/experts/0"
    return {
        "base": str(zoo / "full/base"),
        "experts": [str(experts / "vqa"), str(experts / "ocr")],
        "method": "tsv",
    }


def tried(number: int, *means: float, whole: bool = True, method: str = "tsv", n: int = 40) -> Tried:
    """A candidate with these shares of right answers in the groups a, b, …; the default has strength 1."""
    scores = {
        group: (np.arange(n) < round(mean * n)).astype(float)[None]
        for group, mean in zip("abc", means, strict=False)
    }
    strength = 1.0 if number == 0 else 1.0 + 0.01 * number
    return Tried(number, Candidate(method, {"language": strength}, {}, (1.0, 1.0)), scores, whole)


def space() -> Space:
    asked = parse_recipe({"base": "b", "experts": ["one", "two"], "method": "tsv"})
    return Space(asked, ("tsv",), frozenset({"strength"}), ("language",))


def test_the_model_in_memory_is_the_merge_that_its_recipe_makes(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    asked = parse_recipe(recipe)
    subject = Subject(asked, tmp_path)
    for candidate in (
        Candidate("tsv", {"language": 0.6}, {}, (1.0, 1.0)),
        Candidate("task_arithmetic", {"language": 1.3}, {}, (1.0, 0.5)),
        Candidate("tsv", {"language": 1.4}, {}, (1.0, 1.0)),
    ):
        folder = tmp_path / f"{candidate.method}-{candidate.strengths['language']}"
        made = candidate.recipe(asked).plain() | {"dtype": "float32"}
        optmerge.merge(made, folder)
        wanted = chat.load(folder, dtype="float32").model.state_dict()
        got = subject.become(candidate).model.state_dict()
        assert all(torch.allclose(got[name], value, atol=1e-6) for name, value in wanted.items())
    base = chat.load(asked.base, dtype="float32").model.state_dict()
    back = subject.become(None).model.state_dict()
    assert all(torch.equal(back[name], value) for name, value in base.items())


def test_a_third_of_every_group_is_held_out_and_the_seed_decides_which(questions: Path) -> None:
    found = read_questions(questions)
    chosen, held = divided(found, 0)
    assert (
        len(chosen) == 8 and len(held) == 4 and not {each.id for each in chosen} & {each.id for each in held}
    )
    assert {each.group for each in held} == {"vqa", "ocr"}
    assert divided(found, 0) == (chosen, held) != divided(found, 1)


def test_too_few_questions_or_none_with_answers_are_refused() -> None:
    question = FileQuestion("?", ("yes",), "few", {}, "exact", "1", "q, line 1", None)
    with pytest.raises(InputError, match="'few' has too few"):
        divided([question], 0)
    with pytest.raises(InputError, match="no question has an answer"):
        divided([FileQuestion("?", (), "", {}, "exact", "1", "q, line 1", None)], 0)


def test_the_default_stays_unless_a_candidate_is_better_by_more_than_a_standard_error() -> None:
    default = tried(0, 0.5, 0.5)
    assert best_of([default, tried(1, 0.5, 0.5)], space()) is default
    assert best_of([default, tried(1, 0.525, 0.5)], space()) is default
    better = tried(2, 0.7, 0.6)
    assert best_of([default, better, tried(3, 0.9, 0.9, whole=False)], space()) is better
    assert best_of([default, tried(4, 0.3, 0.3)], space()) is default


def test_the_pareto_front_holds_what_no_other_beats_everywhere() -> None:
    found = [tried(0, 0.5, 0.5), tried(1, 0.6, 0.4), tried(2, 0.4, 0.4), tried(3, 0.9, 0.9, whole=False)]
    assert [each.number for each in pareto(found)] == [0, 1]


def test_a_search_goes_on_where_it_was_stopped_and_is_the_same(
    recipe: dict[str, Any], questions: Path, tmp_path: Path
) -> None:
    asked = parse_recipe(recipe)
    there = Space(asked, ("tsv",), frozenset({"strength"}), ("language",))
    chosen = tuple(read_questions(questions))[:4]

    def told(out: str) -> Search:
        return Search(there, chosen, tmp_path / out, 4, 0, "cpu", chat.show)

    search(told("one"), 1)
    reported: list[Tried] = []
    both = search(told("one"), 3, report=reported.append)
    assert len(both) == 3 and len(reported) == 2
    again = search(told("one"), 3, report=lambda _: pytest.fail("nothing was left to do"))
    assert [each.candidate for each in again] == [each.candidate for each in both]
    with pytest.raises(OutputError, match="another recipe"):
        search(Search(there, chosen[:3], tmp_path / "one", 4, 0, "cpu", chat.show), 3)


def test_what_a_killed_search_has_left_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with locked(tmp_path), pytest.raises(OutputError, match="another search"), locked(tmp_path):
        pytest.fail("two searches in one folder")
    with locked(tmp_path):
        pass


def test_the_command_writes_a_recipe_that_merges_and_a_result(
    recipe: dict[str, Any], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "tune"
    file.write_text(yaml.safe_dump(recipe))
    arguments = ["tune", str(file), "--questions", str(questions), "--out", str(out), "--trials", "3"]
    arguments += ["--among", "tsv", "--among", "ties", "--longest", "4"]
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "result.json").read_text())
    assert told["chosen_on"] == 8 and told["held_out"]["best"]["n"] == 4
    assert {each["method"] for each in told["trials"]} == {"tsv", "ties"} and len(told["trials"]) == 3
    assert (out / "front.html").is_file()
    optmerge.plan(yaml.safe_load((out / "recipe.yaml").read_text()))
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("held out", "default", "best − default", "optmerge merge"))


def test_without_answers_a_questions_own_expert_says_what_is_right(
    recipe: dict[str, Any], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "tune"
    file.write_text(yaml.safe_dump(recipe | {"output": {"format": "routed", "threshold": 0}}))
    bare = tmp_path / "bare.jsonl"
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    for line in lines:
        line["image"] = str(questions.parent / line["image"])
        del line["answers" if "answers" in line else "answer"]
    bare.write_text("".join(json.dumps(line) + "\n" for line in lines))

    routed = optmerge.merge(yaml.safe_load(file.read_text()), tmp_path / "routed").path
    model = chat.load(routed, dtype="float32")
    assert model.routed is not None
    asked = read_questions(bare)
    owners = model.routed.choices([chat.show(model, each) for each in asked])
    experts = {Path(each).name: chat.load(each, dtype="float32") for each in recipe["experts"]}
    found = answered_by_experts(parse_recipe(yaml.safe_load(file.read_text())), asked, chat.show, longest=4)
    assert [each.id for each in found] == [each.id for each in asked]
    for question, owner in zip(found, owners, strict=True):
        expert = experts[owner]
        assert question.answers == tuple(expert.answers([chat.show(expert, question)], longest=4))

    arguments = ["tune", str(file), "--questions", str(bare), "--out", str(out), "--trials", "1"]
    assert run([*arguments, "--longest", "4"]) == 2
    assert "no question has an answer" in capsys.readouterr().err
    assert run([*arguments, "--unlabelled", "--search", "strength", "--longest", "4"]) == 0
    assert "no answers were looked at" in capsys.readouterr().out
    assert json.loads((out / "result.json").read_text())["right"] == "experts"


def test_where_no_router_can_be_made_answers_are_asked_for(recipe: dict[str, Any], questions: Path) -> None:
    asked = parse_recipe({**recipe, "experts": recipe["experts"][:1], "method": "average"})
    with pytest.raises(InputError, match="give the questions answers"):
        answered_by_experts(asked, read_questions(questions), chat.show, longest=4)


def test_wrong_input_is_said_before_a_model_is_loaded(
    recipe: dict[str, Any],
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    common = ["tune", str(file), "--out", str(tmp_path / "t"), "--questions"]
    for arguments, words in (
        ([*common, str(tmp_path / "none.jsonl")], "none.jsonl"),
        ([*common, str(questions), "--among", "tvs"], "tvs"),
        ([*common, str(questions), "--search", "depth"], "depth"),
        ([*common, str(questions), "--device", "tpu"], "tpu"),
        (["tune", "--questions", str(questions)], "nothing to merge"),
    ):
        assert run(arguments) == 2
        assert words in capsys.readouterr().err
    with locked(tmp_path / "t"):
        assert run([*common, str(questions)]) == 2
    assert "another search" in capsys.readouterr().err
