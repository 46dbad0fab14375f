from collections import Counter

import pytest

from optmerge.bench.tasks.drawn._data import easy_vqa
from optmerge.errors import InputError

SPLITS = ("train", "validation", "test")


def test_question_types_partition_the_data() -> None:
    sizes = {split: len(easy_vqa.questions(split)) for split in SPLITS}
    assert sizes["train"] + sizes["validation"] == 38_575
    assert sizes["test"] == 9_673
    for split in SPLITS:
        counts = Counter(question.type for question in easy_vqa.questions(split))
        assert set(counts) == set(easy_vqa.TYPES) and min(counts.values()) > 500


def test_one_wording_is_always_of_one_type() -> None:
    types: dict[str, set[str]] = {}
    for split in SPLITS:
        for question in easy_vqa.questions(split):
            types.setdefault(question.text, set()).add(question.type)
    assert len(types) == 107
    assert all(len(names) == 1 for names in types.values())


def test_splits_share_no_image() -> None:
    files = [set(_paths(split)) for split in SPLITS]
    assert not files[0] & files[1] and not files[0] & files[2] and not files[1] & files[2]


def _paths(split: str) -> list[str]:
    paths = easy_vqa.image_paths(split)
    return [str(paths[question.image]) for question in easy_vqa.questions(split)]


def test_captions_contradict_no_question() -> None:
    known = easy_vqa.captions("train")
    assert len(known) > 3000
    for question in easy_vqa.questions("train"):
        if question.image in known and question.type != "presence":
            assert question.answer in known[question.image]


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(InputError, match="belongs to no question type"):
        easy_vqa.question_type("purple")
