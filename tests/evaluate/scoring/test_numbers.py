import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optmerge.evaluate.scoring.numbers import agree, find_number, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40", 40),
        ("040", 40),
        ("1,000", 1000),
        ("1{,}000", 1000),
        ("-2.5", -2.5),
        ("−2.5", -2.5),
        ("40°", 40),
        ("40 degrees.", 40),
        (r"40^\circ", 40),
        (r"40^{\circ}", 40),
        ("12 cm^2", 12),
        ("12cm²", 12),
        (r"12\text{ cm}^2", 12),
        (r"12 \mathrm{~cm}^{2}", 12),
        ("12 square units", 12),
        ("50%", 50),
        ("$5$", 5),
        ("3/4", 0.75),
        ("1 1/2", 1.5),
        (r"\frac{1}{2}", 0.5),
        (r"\dfrac12", 0.5),
        (r"1\frac{1}{2}", 1.5),
        (r"-\frac{3}{4}", -0.75),
        ("π", math.pi),
        ("4π", 4 * math.pi),
        (r"4\pi", 4 * math.pi),
        (r"\frac{\pi}{2}", math.pi / 2),
        (r"2\sqrt{3}", 2 * math.sqrt(3)),
        (r"\frac{\sqrt{2}}{2}", math.sqrt(0.5)),
        ("√2", math.sqrt(2)),
        ("2^3", 8),
        (r"2^{10}", 1024),
        (r"3 \times 4", 12),
        (r"$\boxed{7}$", 7),
        (r"\boxed{\frac{3}{4}}", 0.75),
        (r"\(x\)", None),
        ("x = 40", None),
        ("12 13", None),
        ("1/0", None),
        ("9^9^9^9", None),
        (r"\sqrt{-1}", None),
        ("(" * 30, None),
        ("(" * 3000, None),
        ("two", None),
        ("", None),
    ],
)
def test_a_text_that_is_one_number_has_a_value(text: str, value: float | None) -> None:
    assert read_number(text) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("x = 40", 40),
        ("x=40.", 40),
        ("The angle is 40 degrees.", 40),
        ("180 - 40 - 60 is 80, so x is 80", 80),
        ("area = 1/2 * 6 * 4 = 12 cm^2", 12),
        ("The answer is 40 because 180 - 140 = 40 and 7 < 8", 40),
        ("Answer: 3", 3),
        ("the answer is: \\( \\frac{1}{2} \\)", 0.5),
        ("so it's (about 40)", 40),
        ("**40**", 40),
        ("the area is 4 \\pi cm^2", 4 * math.pi),
        ("first 3, but \\boxed{5}. Check: 2 + 3", 5),
        ("\\boxed{4} no, \\boxed{5}", 5),
        ("no idea", None),
        ("", None),
    ],
)
def test_the_number_a_reply_comes_to_is_found(reply: str, value: float | None) -> None:
    assert find_number(reply) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("80.0", "80", True),
        ("80°", "80", True),
        ("81", "80", False),
        ("80.4", "80", False),
        ("0.5", r"\frac{1}{2}", True),
        ("12.57", r"4\pi", True),
        ("12.6", r"4\pi", False),
        ("4π", "12.57", True),
        ("1.414", "1.41", True),
        ("1.42", "1.41", False),
        ("0.333", "1/3", True),
        ("0.3", "1/3", False),
        ("1000", "1,000", True),
        ("eighty", "80", False),
        ("80", "eighty", False),
    ],
)
def test_numbers_agree_to_the_precision_of_the_gold_answer(prediction: str, answer: str, right: bool) -> None:
    assert agree(prediction, answer) is right


@given(st.integers(-(10**9), 10**9), st.integers(1, 999))
def test_written_forms_of_one_number_have_its_value(whole: int, under: int) -> None:
    assert read_number(f"{whole:,}") == whole
    assert read_number(rf"\frac{{{whole}}}{{{under}}}") == pytest.approx(whole / under)
    assert read_number(f"{whole}/{under} cm") == pytest.approx(whole / under)


@given(st.text(r"0123456789.+-*/^(){}\ πfracsqrtboxed$°=", max_size=60))
def test_whatever_is_said_is_a_finite_number_or_none(text: str) -> None:
    value = find_number(text)
    assert value is None or math.isfinite(value)
