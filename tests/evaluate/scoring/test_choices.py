import pytest
from hypothesis import given
from hypothesis import strategies as st

from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.choices import accuracy, read_choice, read_options

ANGLES = {"A": "40°", "B": "60°", "C": "80°", "D": "100°"}
SHAPES = {"A": "triangle", "B": "square", "C": "right triangle"}


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("what is x? (A) 40 (B) 60 (C) 80", {"A": "40", "B": "60", "C": "80"}),
        ("Find x.\nChoices:\n(A) 145°\n(B) 35°", {"A": "145°", "B": "35°"}),
        ("Find x.\nA. 40\nB. 60, or so", {"A": "40", "B": "60, or so"}),
        ("Find x. A) 4 B) 5", {"A": "4", "B": "5"}),
        ("Find x. A: 4 B: 5", {"A": "4", "B": "5"}),
        ("(a) 3, (b) 4", {"A": "3", "B": "4"}),
        ("In (A) and (B) below, which? (A) left (B) right", {"A": "left", "B": "right"}),
        ("(A) 1 (C) 2", {}),
        ("how long is side A?", {}),
        ("what does the word (A) say?", {}),
    ],
)
def test_the_options_of_a_question_are_listed(question: str, options: dict[str, str]) -> None:
    assert read_options(question) == options


@pytest.mark.parametrize(
    ("reply", "options", "letter"),
    [
        ("B", ANGLES, "B"),
        ("b", ANGLES, "B"),
        ("(B)", ANGLES, "B"),
        ("B.", ANGLES, "B"),
        ("B) 60", ANGLES, "B"),
        ("(B) 60°", ANGLES, "B"),
        ("B: 60", ANGLES, "B"),
        ("**B**", ANGLES, "B"),
        ("The answer is B", ANGLES, "B"),
        ("The answer is (B) 60°.", ANGLES, "B"),
        ("Answer: B", ANGLES, "B"),
        ("the correct option is B.", ANGLES, "B"),
        (r"\boxed{B}", ANGLES, "B"),
        (r"so $\boxed{\text{B}}$, not (A)", ANGLES, "B"),
        ("60", ANGLES, "B"),
        ("60 degrees", ANGLES, "B"),
        ("x = 60", ANGLES, "B"),
        ("The sum is 180, so the answer is 60.", ANGLES, "B"),
        ("It can't be that large; it's (B).", ANGLES, "B"),
        ("square", SHAPES, "B"),
        ("It is a square.", SHAPES, "B"),
        ("A right triangle", SHAPES, "C"),  # "A" is an article here
        ("A triangle", SHAPES, "A"),
        ("E", ANGLES, None),
        ("70", ANGLES, None),
        ("(A) or (B)", {"A": "x", "B": "y"}, "A"),
        ("either (A) or (B)", {"A": "x", "B": "y"}, None),
        ("no idea", ANGLES, None),
        ("", ANGLES, None),
    ],
)
def test_the_choice_is_found_in_what_models_say(
    reply: str, options: dict[str, str], letter: str | None
) -> None:
    assert read_choice(reply, options) == letter


@pytest.mark.parametrize(
    ("text", "answers", "prediction", "expected"),
    [
        ("what is x? (A) 40 (B) 60", ("B",), "B", 1.0),
        ("what is x? (A) 40 (B) 60", ("B",), "60", 1.0),
        ("what is x? (A) 40 (B) 60", ("60",), "(B)", 1.0),
        ("what is x? (A) 40 (B) 60", ("B",), "A", 0.0),
        ("what is x? (A) 40 (B) 60", ("B",), "50", 0.0),
        ("what is x?", ("60",), "60°", 1.0),
        ("what is x?", ("60",), "it's 60 degrees", 1.0),
        ("what is x?", ("60",), "65", 0.0),
        ("what is x?", ("1/2", "0.5"), r"\frac{1}{2}", 1.0),
        ("which side is longest?", ("AB",), "AB.", 1.0),
        ("which side is longest?", ("AB",), "BC", 0.0),
        ("is it a square?", ("yes",), "Yes", 1.0),
    ],
)
def test_accuracy_on_cases_worked_by_hand(
    text: str, answers: tuple[str, ...], prediction: str, expected: float
) -> None:
    assert accuracy(prediction, Question(text, answers, "any")) == expected


@given(st.text(), st.text(min_size=1))
def test_gold_answers_score_one_and_scores_are_zero_or_one(said: str, gold: str) -> None:
    question = Question("what is x?", (gold,), "any")
    assert accuracy(gold, question) == 1.0
    assert accuracy(said, question) in (0.0, 1.0)


@given(st.lists(st.integers(1, 999), min_size=2, max_size=6, unique=True), st.data())
def test_letter_bracketed_letter_and_text_choose_the_same(values: list[int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(values) - 1))
    letter = "ABCDEF"[row]
    text = "what is x? " + " ".join(
        f"({mark}) {value}" for mark, value in zip("ABCDEF", values, strict=False)
    )
    question = Question(text, (letter,), "any")
    for reply in (letter, f"({letter})", f"{letter}) {values[row]}", str(values[row])):
        assert accuracy(reply, question) == 1.0
