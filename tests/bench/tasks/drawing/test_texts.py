import random
from collections import Counter
from collections.abc import Callable

import pytest

from optmerge.bench.tasks import SPLITS, Split
from optmerge.bench.tasks.drawn._drawing import texts

MAKERS: dict[str, Callable[[random.Random, Split], object]] = {
    "word": texts.word,
    "number": texts.number,
    "date": texts.date,
    "code": texts.code,
}


def some(name: str, split: Split, number: int = 1500) -> list[str]:
    rng = random.Random(f"{name}/{split}")
    return ["".join(MAKERS[name](rng, split)) for _ in range(number)]


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_is_in_two_splits(name: str) -> None:
    train, validation, test = (set(some(name, split)) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


def test_words_are_real_and_invented_ones_of_three_to_six_capitals() -> None:
    found = some("word", "train")
    assert all(word.isalpha() and word.isupper() and 3 <= len(word) <= 6 for word in found)
    assert 0.2 < sum(word in texts.REAL for word in found) / len(found) < 0.45
    assert set("".join(found)) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert max(Counter(found).values()) < len(found) / 50


def test_the_list_of_real_words_repeats_none() -> None:
    assert len(texts.REAL) == len(set(texts.REAL)) > 300
    assert all(word.isalpha() and word.isupper() and 3 <= len(word) <= 6 for word in texts.REAL)


def test_longest_limits_words_and_numbers() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert len(texts.word(rng, "train", longest=3)) == 3
        assert len(texts.number(rng, "train", longest=4)) in (3, 4)


def test_numbers_have_three_to_five_digits_and_no_leading_zero() -> None:
    found = some("number", "test")
    assert all(text.isdecimal() and text[0] != "0" for text in found)
    assert Counter(map(len, found)).keys() == {3, 4, 5}


def test_the_parts_of_a_date_cannot_be_mistaken_for_each_other() -> None:
    rng = random.Random(0)
    for day, month, year in (texts.date(rng, "train") for _ in range(500)):
        assert 1 <= int(month) <= 12 < int(day) <= 28 < 31 < int(year) <= 99
        assert len(day) == len(month) == len(year) == 2


def test_codes_mix_letters_and_digits_that_do_not_look_alike() -> None:
    for code in some("code", "train"):
        assert len(code) in (4, 5)
        assert any(mark.isalpha() for mark in code) and any(mark.isdecimal() for mark in code)
        assert not set(code) & set("O0I1Q")
