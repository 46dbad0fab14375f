from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optmerge.evaluate.scoring.charts import read_number, relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("100", ["100"], 1.0),
        ("105", ["100"], 1.0),  # the bound itself counts
        ("105.01", ["100"], 0.0),
        ("95", ["100"], 1.0),
        ("94.9", ["100"], 0.0),
        ("100", ["105.3"], 0.0),  # 5 % of the gold answer, not of the prediction
        ("-100", ["100"], 0.0),
        ("-98", ["-100"], 1.0),
        ("−98", ["-100"], 1.0),
        ("0", ["0"], 1.0),
        ("0.0", ["0"], 1.0),
        ("0.01", ["0"], 0.0),
        ("0.104", ["0.1"], 1.0),
        ("34%", ["34"], 1.0),
        ("34", ["34%"], 1.0),
        ("0.34", ["34%"], 1.0),
        ("34 %", ["0.34"], 1.0),
        ("34 percent", ["35%"], 1.0),
        ("34%", ["0.34%"], 0.0),  # two percentages are compared as they are
        ("1,234,567", ["1234567"], 1.0),
        ("1234567", ["1,234,567.0"], 1.0),
        ("12,34", ["1234"], 0.0),  # not a thousands separator
        ("$1,200", ["1200"], 1.0),
        ("1200 €", ["€1,200"], 1.0),
        ("-$5", ["-5"], 1.0),
        ("$ -5", ["-5"], 1.0),
        ("2014", ["2019"], 1.0),  # years are numbers, as in the original script
        ("Green", ["green"], 1.0),
        ("green.", ["Green"], 1.0),
        ("dark  green", ["dark green"], 1.0),
        ("dark green", ["green"], 0.0),
        ("the value is 100", ["100"], 0.0),
        ("Yes", ["No", "yes"], 1.0),
        ("[2, 3]", ["[2, 3]"], 1.0),
        ("7", ["ten", "7.1"], 1.0),
        ("nan", ["nan"], 1.0),
        ("nan", ["3"], 0.0),
        ("inf", ["3"], 0.0),
        ("", ["3"], 0.0),
        ("3", [], 0.0),
    ],
)
def test_relaxed_accuracy_on_cases_worked_by_hand(
    prediction: str, answers: list[str], expected: float
) -> None:
    assert relaxed_accuracy(prediction, answers) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".5", (Fraction(1, 2), False)),
        ("5.", (Fraction(5), False)),
        ("+3 %", (Fraction(3), True)),
        ("- 2", (Fraction(-2), False)),
        ("--2", None),
        ("-$-2", None),
        ("1 2", None),
        ("twelve", None),
        ("9" * 400, (Fraction(10**400 - 1), False)),
    ],
)
def test_only_a_whole_text_is_a_number(text: str, number: tuple[Fraction, bool] | None) -> None:
    assert read_number(text) == number


@given(st.text(), st.lists(st.text(), min_size=1))
def test_gold_answers_score_one_and_scores_are_zero_or_one(said: str, answers: list[str]) -> None:
    assert relaxed_accuracy(answers[-1], answers) == 1.0
    assert relaxed_accuracy(said, answers) in (0.0, 1.0)


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.integers(1, 1000))
def test_scaling_both_sides_changes_nothing(said: int, gold: int, scale: int) -> None:
    assume(gold != 0)
    direct = relaxed_accuracy(str(said), [str(gold)])
    assert relaxed_accuracy(f"{said * scale:,}", [f"${gold * scale:,}"]) == direct
    assert direct == float(abs(said - gold) * 20 <= abs(gold))
