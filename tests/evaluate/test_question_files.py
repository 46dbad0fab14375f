"""Files of questions: every form of a line, and every fault with its file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from optmerge.errors import InputError
from optmerge.evaluate.question_files import FileQuestion, read_questions
from optmerge.evaluate.scoring.metrics import METRICS

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines, objects or texts, beside a picture of 40 by 30 pixels, a sound and a text."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "beep.wav").touch()
    (tmp_path / "words.txt").write_text("no picture")

    def written(*lines: Any) -> Path:
        file = tmp_path / "questions.jsonl"
        file.write_text(
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8"
        )
        return file

    return written


def only(file: Path) -> FileQuestion:
    (found,) = read_questions(file)
    return found


def test_a_line_is_a_question_with_files_beside_it(write: Write, tmp_path: Path) -> None:
    found = only(
        write({"image": "red.png", "audio": ["beep.wav"], "question": "who?", "answer": "me", "id": 7})
    )
    assert found.media == {"image": (tmp_path / "red.png",), "audio": (tmp_path / "beep.wav",)}
    assert (found.text, found.answers, found.metric, found.id, found.size) == (
        "who?",
        ("me",),
        "exact",
        "7",
        (40, 30),
    )


def test_a_line_needs_a_question_alone_and_is_called_by_its_number(write: Write) -> None:
    first, second = read_questions(write({"question": "why?"}, "", {"question": "how?", "my note": 3}))
    assert (first.id, second.id) == ("1", "3")
    assert first.answers == () and first.media == {} and first.group == ""


@pytest.mark.parametrize(
    ("given", "accepted"),
    [(3, "3"), (0.5, "0.5"), (True, "yes"), (False, "no"), ([0.1, 0.2, 0.3, 0.4], "[0.1, 0.2, 0.3, 0.4]")],
)
def test_answers_that_are_no_text_are_written_as_a_model_would(
    write: Write, given: Any, accepted: str
) -> None:
    assert only(write({"question": "?", "answer": given})).answers == (accepted,)
    assert only(write({"question": "?", "answers": ["x", given]})).answers == ("x", accepted)


def test_choices_are_lettered_behind_the_question_unless_they_stand_in_it(write: Write) -> None:
    line = {"question": "which?", "choices": ["red", "blue"], "answer": "blue"}
    lettered = only(write(line))
    assert lettered.text == "which? (A) red (B) blue" and lettered.metric == "choice"
    assert lettered.score("B") == lettered.score("blue") == 1 and lettered.score("A") == 0
    assert only(write({**line, "question": "which? (A) red (B) blue"})).text == "which? (A) red (B) blue"


@pytest.mark.parametrize(
    ("metric", "answers", "right", "wrong"),
    [
        ("exact", ["Two Cats"], "two  cats", "2 cats"),
        ("vqa", ["two cats"], "2 cats.", "3 cats"),
        ("relaxed", ["100"], "104", "106"),
        ("anls", ["abcdefgh"], "abcdefgh", "xxxxxxxx"),
        ("box", ["[10, 10, 50, 50]"], "[11, 10, 50, 52]", "[60, 60, 90, 90]"),
        ("choice", ["3"], "the answer is 3", "4"),
    ],
)
def test_every_metric_tells_right_from_wrong(
    write: Write, metric: str, answers: list[str], right: str, wrong: str
) -> None:
    found = only(write({"question": "?", "answers": answers, "metric": metric}))
    assert found.score(right) == 1 and found.score(wrong) == 0


def test_ten_people_agree_by_thirds(write: Write) -> None:
    found = only(write({"question": "?", "answers": ["a b"] * 2 + ["c"] * 8, "metric": "vqa10"}))
    assert found.score("a b") == pytest.approx(0.6) and found.score("c") == 1


def test_a_box_in_pixels_is_one_of_the_picture(write: Write) -> None:
    line = {"image": "red.png", "question": "?", "metric": "box", "answer": '{"bbox_2d": [4, 3, 20, 15]}'}
    assert only(write(line)).score("[10, 10, 50, 50]") == 1


WRONG = {
    "no question": ({"answer": "x"}, "no 'question'"),
    "empty question": ({"question": ""}, "question"),
    "question of another type": ({"question": ["a"]}, "question"),
    "both answers": ({"question": "?", "answer": "x", "answers": ["y"]}, "both given"),
    "no answers": ({"question": "?", "answers": []}, "empty"),
    "answer of another type": ({"question": "?", "answer": {"a": 1}}, "answer"),
    "unknown metric": ({"question": "?", "answer": "x", "metric": "bleu"}, "bleu"),
    "misspelt key": ({"question": "?", "anwser": "x"}, "did you mean 'answer'"),
    "one choice": ({"question": "?", "choices": ["x"]}, "choices"),
    "no such picture": ({"question": "?", "image": "none.png"}, "none.png"),
    "no picture": ({"question": "?", "image": "words.txt"}, "words.txt"),
    "a folder": ({"question": "?", "audio": "."}, "no such file"),
    "not JSON": ("{'question': '?'}", "can't be parsed"),
    "a list": ("[1]", "isn't a JSON object"),
    "a name twice": ('{"question": "?", "question": "!"}', "twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_line_that_cannot_be_used_is_named(write: Write, case: str) -> None:
    line, words = WRONG[case]
    file = write({"question": "fine?"}, line)
    with pytest.raises(InputError) as caught:
        read_questions(file)
    assert words in str(caught.value)
    assert f"{file}, line 2" in str(caught.value) or case == "no picture"


def test_ids_are_unique_and_a_file_holds_something(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two questions have the id '1'"):
        read_questions(write({"question": "a?"}, {"question": "b?", "id": "1"}))
    with pytest.raises(InputError, match="no question"):
        read_questions(write("", "  "))
    with pytest.raises(InputError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")


def test_metrics_are_those_of_the_manual() -> None:
    assert list(METRICS) == ["exact", "vqa", "vqa10", "choice", "relaxed", "anls", "box"]
