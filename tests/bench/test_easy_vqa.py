import pytest

from optmerge.bench.curriculum import vocabulary
from optmerge.bench.tasks import easy_vqa
from optmerge.errors import InputError

SPLITS = ("train", "validation", "test")


def ask(text: str, answer: str) -> easy_vqa.Question:
    return easy_vqa.Question(0, text, answer, easy_vqa.question_type(answer), "test")


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("blue", "blue", 1.0),
        ("Blue.", "blue", 1.0),
        ("  the   blue ", "blue", 1.0),
        ("a rectangle", "rectangle", 1.0),
        ("yes", "no", 0.0),
        ("", "no", 0.0),
        ("blue blue", "blue", 0.0),
        ("a blue circle", "circle", 0.0),
        ("rectangles", "rectangle", 0.0),
    ],
)
def test_the_scorer_agrees_with_cases_worked_by_hand(prediction: str, answer: str, expected: float) -> None:
    assert easy_vqa.score(prediction, ask("?", answer)) == expected


def test_question_types_partition_the_data() -> None:
    sizes = {split: len(easy_vqa.questions(split)) for split in SPLITS}
    assert sizes["train"] + sizes["validation"] == 38_575
    assert sizes["test"] == 9_673
    for split in SPLITS:
        groups = easy_vqa.by_type([1.0] * sizes[split], easy_vqa.questions(split))
        assert sum(map(len, groups.values())) == sizes[split]
        assert min(map(len, groups.values())) > 500


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


def test_gold_answers_score_one_and_shifted_ones_near_chance() -> None:
    questions = easy_vqa.sample("test", 300)
    assert all(easy_vqa.score(question.answer, question) == 1.0 for question in questions)
    for name, chance in (("colour", 1 / 8), ("shape", 1 / 3), ("presence", 1 / 2)):
        group = [question for question in questions if question.type == name]
        hits = [
            easy_vqa.score(other.answer, question)
            for question, other in zip(group, group[7:] + group[:7], strict=True)
        ]
        assert abs(sum(hits) / len(hits) - chance) < 0.1


def test_a_sample_is_deterministic_and_balanced() -> None:
    first, again, other = (easy_vqa.sample("test", 50, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(group) for group in easy_vqa.by_type([1.0] * 150, first).values()] == [50, 50, 50]


def test_captions_contradict_no_question() -> None:
    known = easy_vqa.captions("train")
    assert len(known) > 3000
    for question in easy_vqa.questions("train"):
        if question.image in known and question.type != "presence":
            assert question.answer in known[question.image]


def test_the_vocabulary_covers_every_word_asked_or_answered() -> None:
    words = vocabulary()
    for split in SPLITS:
        for question in easy_vqa.questions(split):
            assert set(question.text.replace("?", " ?").split()) | {question.answer} <= words


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(InputError, match="belongs to no question type"):
        easy_vqa.question_type("purple")
