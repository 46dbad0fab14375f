import pytest
from hypothesis import given
from hypothesis import strategies as st

from optmerge.evaluate.scoring.vqa import exact_match, normalise, soft_accuracy


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("The red car.", "red car"),
        ("a dog and an apple", "dog and apple"),
        ("A", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten o'clock", "10 o'clock"),
        ("twenty", "twenty"),
        ("10:30", "10:30"),  # colons stay: they're often times
        ("girl's", "girl's"),  # apostrophes stay: girls would be a plural
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("its well", "its well"),  # words of their own
        ("t-shirt", "t shirt"),
        ("red - white", "red white"),
        ("red/white", "red white"),
        ("yes, sir", "yes sir"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),  # as in the original: one grouped number removes every mark
        ("2.5", "2.5"),
        ("2.", "2"),
        ("U.S.", "us"),
        ("what?!", "what"),
        ("50%", "50%"),
        ("$5", "$5"),
        ("\tyes\n", "yes"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_in_the_vqa_evaluation(said: str, normal: str) -> None:
    assert normalise(said) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Two.", ["2"], 1.0),
        ("a cat", ["dog", "the cat"], 1.0),
        ("cats", ["cat"], 0.0),
        ("", ["cat"], 0.0),
        ("yes", [], 0.0),
    ],
)
def test_exact_match_wants_one_of_the_answers(prediction: str, answers: list[str], expected: float) -> None:
    assert exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_accuracy_over_ten_people_is_averaged_leaving_each_out(agreeing: int, expected: float) -> None:
    people = ["two"] * agreeing + [f"other {n}" for n in range(10 - agreeing)]
    assert soft_accuracy("2", people) == pytest.approx(expected)


def test_a_single_answer_is_matched_exactly() -> None:
    assert soft_accuracy("the end", ["end"]) == 1.0
    assert soft_accuracy("the end", ["start"]) == 0.0
    assert soft_accuracy("the end", []) == 0.0


@given(st.text(), st.lists(st.text(), min_size=1, max_size=12))
def test_scores_lie_between_zero_and_one_and_gold_answers_score_one(said: str, answers: list[str]) -> None:
    assert 0.0 <= soft_accuracy(said, answers) <= 1.0
    assert exact_match(answers[-1], answers) == 1.0
    assert soft_accuracy(said, [said] * 10) == 1.0


@given(st.text(), st.permutations(["yes", "no", "no", "2", "two", "red", "blue", "a", "b", "c"]))
def test_the_order_of_the_people_does_not_matter(said: str, people: list[str]) -> None:
    assert soft_accuracy(said, people) == pytest.approx(soft_accuracy(said, sorted(people)))
