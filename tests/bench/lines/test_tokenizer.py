from __future__ import annotations

import hashlib
from string import ascii_uppercase
from typing import Any

import pytest

from optmerge.bench.lines.tiny import tokenizer
from optmerge.bench.tasks import drawn

TEXTS = 100
"""Scenes of each task: a line's own tokenizer has learnt from thousands, which takes ten seconds."""


@pytest.fixture(scope="module")
def core() -> Any:
    return tokenizer.learn(tokenizer.texts(TEXTS))


def pieces(core: Any, text: str) -> list[str]:
    return [core.decode([token]) for token in core.encode(text).ids]


@pytest.mark.parametrize("task", drawn().values(), ids=drawn())
def test_every_text_of_a_task_comes_back(core: Any, task: Any) -> None:
    for index in range(2000, 2050):
        scene = task.scene("train", index)
        for question in (*scene.captions, *scene.questions):
            for text in (question.text, *question.answers):
                assert core.decode(core.encode(text).ids) == text


@pytest.mark.parametrize(
    "text", ["", "  two  spaces ", "é ☃ 😀", "a\n\tb", "MiXed99x1", "<|im_end", "\x00\x7f"]
)
def test_any_other_text_comes_back_too(core: Any, text: str) -> None:
    assert core.decode(core.encode(text).ids) == text


def test_numbers_to_99_and_capitals_are_one_token_each_with_a_space_before_them_and_without(
    core: Any,
) -> None:
    numbers = [*map(str, range(100)), *(f"{number:02}" for number in range(10))]
    for text in (*numbers, *ascii_uppercase):
        assert pieces(core, text) == [text] and pieces(core, f" {text}") == [f" {text}"]


def test_digits_go_two_by_two_from_the_left(core: Any) -> None:
    assert pieces(core, "[21, 7, 100]") == ["[", "21", ",", " 7", ",", " 10", "0", "]"]


def test_capitals_stand_alone(core: Any) -> None:
    assert pieces(core, "read RPOr") == ["read", " R", "P", "O", "r"]


def test_a_frequent_word_is_one_token_with_its_space(core: Any) -> None:
    assert pieces(core, "what color is the shape?") == ["what", " color", " is", " the", " shape", "?"]


def test_the_same_texts_give_the_same_tokenizer(core: Any) -> None:
    again = tokenizer.learn(tokenizer.texts(TEXTS))
    assert hashlib.sha256(again.to_str().encode()).digest() == hashlib.sha256(core.to_str().encode()).digest()


def test_special_tokens_are_one_token_and_come_after_all_others(
    monkeypatch: pytest.MonkeyPatch, core: Any
) -> None:
    monkeypatch.setattr(tokenizer, "_learnt", lambda corpus: core.to_str())
    built = tokenizer.build(("<img>", "</img>"), "", {"start_image_token": "<img>"})
    special = [*tokenizer.CHAT, "<img>", "</img>"]
    ids = built(" ".join(special))["input_ids"][::2]
    assert ids == list(range(len(built) - len(special), len(built)))
    assert built.start_image_token == "<img>"
