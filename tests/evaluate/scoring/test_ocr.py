import pytest
from hypothesis import given
from hypothesis import strategies as st

from optmerge.evaluate.scoring.ocr import anls, edits, exact_match

WORDS = st.text("ABC ", max_size=8)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("KITTEN", ["KITTEN"], 1.0),
        ("kitten", ["KITTEN"], 1.0),
        ("SITTING", ["KITTEN"], 1 - 3 / 7),
        ("KIT", ["KITTEN"], 0.5),  # exactly the threshold still counts
        ("KI", ["KITTEN"], 0.0),
        ("12/04/31", ["12/04/37"], 7 / 8),
        ("$ 42", ["$42"], 0.75),
        ("Dr.  Who ", ["dr. who"], 1.0),
        ("ITC", ["ITC Limited", "ITC"], 1.0),
        ("ITD", ["ITC Limited", "ITC"], 2 / 3),
        ("", ["A"], 0.0),
        ("A", [], 0.0),
    ],
)
def test_anls_on_cases_worked_by_hand(prediction: str, answers: list[str], expected: float) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("open", ["OPEN"], 1.0),
        (" 12/04/31\n", ["12/04/31"], 1.0),
        ("12/04/3", ["12/04/31"], 0.0),
        ("OPEN.", ["OPEN"], 0.0),
        ("SHUT", ["OPEN", "shut"], 1.0),
    ],
)
def test_exact_match_ignores_case_and_spacing_only(
    prediction: str, answers: list[str], expected: float
) -> None:
    assert exact_match(prediction, answers) == expected


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edits(a, b) == edits(b, a)
    assert (edits(a, b) == 0) == (a == b)
    assert edits(a, c) <= edits(a, b) + edits(b, c)
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))


@given(WORDS, st.sampled_from("XYZ"), st.integers(0, 8))
def test_one_insertion_is_one_edit(word: str, letter: str, place: int) -> None:
    assert edits(word, word[:place] + letter + word[place:]) == 1


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4))
def test_scores_lie_between_zero_and_one_and_gold_answers_score_one(said: str, answers: list[str]) -> None:
    assert anls(answers[-1], answers) == exact_match(answers[-1], answers) == 1.0
    assert 0.0 <= exact_match(said, answers) <= anls(said, answers) <= 1.0
    assert anls(said, answers) == max(anls(said, [answer]) for answer in answers)
