"""`optmerge eval`: answers, scores and differences, from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from optmerge.bench import lines, records
from optmerge.bench.exporting import export
from optmerge.bench.lines.tiny import asking
from optmerge.bench.tasks import get, registered
from optmerge.bench.trials.trials import label, read_all
from optmerge.cli import run
from optmerge.errors import InputError
from optmerge.evaluate import chat
from optmerge.evaluate.evaluation import Reply, evaluations, replies
from optmerge.evaluate.question_files import FileQuestion, read_questions

TASKS = ("vqa", "ocr", "grounding")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three validation questions of three tasks."""
    return export([get(name) for name in TASKS], "validation", 3, tmp_path_factory.mktemp("q") / "asked")


def question(group: str, answer: str = "yes") -> FileQuestion:
    return FileQuestion("?", (answer,) if answer else (), group, {}, "exact", "1", "q.jsonl, line 1", None)


def said(*scores: tuple[str, float]) -> list[Reply]:
    return [Reply(question(group), "", score) for group, score in scores]


@pytest.mark.parametrize("line", ["full", "lora", "adapter"])
def test_answers_are_those_of_the_benchmark(line: str, merged: Mapping[str, Path], questions: Path) -> None:
    family = "lora" if line == "adapter" else line
    base = merged[f"{family}-base"]
    theirs = asking.load(family, merged[line], base=base, device="cpu", dtype="float32")
    wanted = [
        text for each in theirs.answers([get(name) for name in TASKS], "validation", 3) for text in each.texts
    ]
    model = chat.load(merged[line], dtype="float32")
    (found,) = replies(model, read_questions(questions), chat.show, longest=16)
    assert [reply.said for reply in found] == wanted
    assert any(wanted)


@pytest.mark.parametrize("line", ["full", "lora"])
def test_an_answer_does_not_depend_on_the_batch(
    line: str, merged: Mapping[str, Path], tmp_path: Path
) -> None:
    for name, size in {"a": (112, 112), "b": (60, 200), "c": (112, 112)}.items():
        Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / f"{name}.png")
    lines = [
        {"image": "a.png", "question": "what color is it?"},
        {"image": "b.png", "question": "what color is it?"},
        {"image": ["a.png", "c.png"], "question": "are they alike?"},
        {"image": "c.png", "question": "what color is it?"},
        {"question": "what is two and two?"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked, model = read_questions(tmp_path / "q.jsonl"), chat.load(merged[line], dtype="float32")
    (together,) = replies(model, asked, chat.show, longest=6)
    alone = [reply for each in asked for (reply,) in replies(model, [each], chat.show, longest=6)]
    assert [each.said for each in together] == [each.said for each in alone]


def test_the_score_is_the_mean_over_groups_and_differences_are_paired() -> None:
    first = said(("a", 1.0), ("a", 1.0), ("a", 0.0), ("a", 0.0), ("b", 1.0))
    second = said(("a", 1.0), ("a", 0.0), ("a", 0.0), ("a", 0.0), ("b", 0.0))
    one, other = evaluations({"first": first, "second": second})
    assert one.score and other.score and one.score.score == 0.75 and other.score.score == 0.125
    assert one.score.n == 5 and {name: each.score for name, each in one.groups.items()} == {
        "a": 0.5,
        "b": 1.0,
    }
    assert one.differences["second"].mean == 0.625 == -other.differences["first"].mean


def test_a_file_without_groups_has_none_and_questions_without_answers_have_no_score() -> None:
    (found,) = evaluations({"m": [*said(("", 1.0), ("", 0.0)), Reply(question("", ""), "hm", None)]})
    assert found.score and found.score.score == 0.5 and found.score.n == 2 and found.groups == {}
    (nothing,) = evaluations({"m": [Reply(question("", ""), "hm", None)]})
    assert nothing.plain()["score"] is None and nothing.plain()["n"] == 0


def test_what_a_model_cannot_take_is_said_with_the_line(merged: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "beep.wav").touch()
    (tmp_path / "q.jsonl").write_text('{"question": "who?", "audio": "beep.wav"}')
    with pytest.raises(InputError, match=r"no audio[\s\S]*q.jsonl, line 1"):
        list(replies(chat.load(merged["full"]), read_questions(tmp_path / "q.jsonl"), chat.show))


def test_the_command_prints_models_their_groups_and_their_difference(
    merged: Mapping[str, Path], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = str(merged["full-base"]), tmp_path / "new" / "answers.jsonl"
    arguments = ["eval", base, str(merged["full"]), str(questions), "--longest", "16"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["model"] == base and first["n"] == 9 and set(first["groups"]) == set(TASKS)
    assert 0 <= first["low"] <= first["score"] <= first["high"] <= 1
    assert second["differences"][base]["mean"] == pytest.approx(second["score"] - first["score"])
    kept = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["model"] for line in kept] == [base] * 9 + [str(merged["full"])] * 9
    scored = [line["score"] for line in kept[:3]]
    assert sum(scored) / 3 == first["groups"]["vqa"]["score"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*TASKS, "95 % interval", "difference"))


def test_wrong_input_is_said_before_a_model_is_loaded(
    merged: Mapping[str, Path],
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    model = str(merged["full"])
    (tmp_path / "unlabelled.jsonl").write_text('{"question": "why?"}')
    (tmp_path / "kept").write_text("old")
    cases: list[tuple[list[Any], str]] = [
        ([questions], "one model or more"),
        ([model, model], "no file of questions"),
        ([model, model, questions], "twice"),
        ([model, tmp_path / "nowhere", questions], "nowhere"),
        ([model, questions, "--device", "tpu"], "tpu"),
        ([model, tmp_path / "unlabelled.jsonl"], "--out"),
        ([model, questions, "--out", tmp_path / "kept"], "kept"),
    ]
    for arguments, words in cases:
        assert run(["eval", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "old"


def test_questions_of_the_benchmark_are_written_once_and_whole(tmp_path: Path) -> None:
    assert run(["bench", "questions", "--task", "chart", "--n", "2", "--out", str(tmp_path / "q")]) == 0
    found = read_questions(tmp_path / "q" / "questions.jsonl")
    items = list(get("chart").items("validation", 2))
    assert [(each.text, each.answers, each.metric) for each in found] == [
        (item.question.text, item.question.answers, "relaxed") for item in items
    ]
    assert list(Image.open(found[0].media["image"][0]).getdata()) == list(
        (items[0].image or pytest.fail()).getdata()
    )
    assert run(["bench", "questions", "--n", "2", "--out", str(tmp_path / "q")]) == 2
    assert run(["bench", "questions", "--task", "composition", "--out", str(tmp_path / "c")]) == 2
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", ["full", "lora"])
def test_the_shipped_records_come_out_question_by_question(line: str, tmp_path: Path) -> None:
    tasks = [task for task in registered().values() if task.trained]
    asked = read_questions(export(tasks, "test", 40, tmp_path / "q"))
    found = lines.get(line).members(lines.default_zoo(), 0)
    recorded = {
        label(each.trial.kind, each.trial.model): each.tasks
        for each in read_all(*records.shipped("bench"))
        if each.trial.line == line and each.trial.split == "test" and each.trial.expert_set in (None, 0)
    }
    for name, folder in {"base": found.base, "expert:ocr": found.experts["ocr"]}.items():
        model = chat.load(folder, dtype="float32")
        said = [reply for some in replies(model, asked, chat.show, longest=16) for reply in some]
        for task in tasks:
            mine = [reply.score for reply in said if reply.question.group == task.name]
            assert mine == recorded[name][task.name].scores[:40].tolist(), (name, task.name)
