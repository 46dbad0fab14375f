"""ChartQA's relaxed accuracy: numbers within 5 % of the gold answer, text exactly (Methani et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

TOLERANCE = Fraction(1, 20)
_CURRENCY = "$€£¥₹"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?[{_CURRENCY}]?\s?(?P<sign2>[+-]?)"
    r"(?P<value>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
    rf"\s?[{_CURRENCY}]?(?P<percent>\s?%|\s?percent)?"
)


def relaxed_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction agrees with one of the answers, else 0.

    Two numbers agree if they differ by at most 5 % of the gold number, so a gold zero needs a zero. A percent
    sign on one side alone is read as a unit, or as a hundredth: "34 %" agrees with "34" and "0.34" (the
    original script knows the second reading only). Any other two texts agree if they are the same apart from
    case, spaces and a closing period. As in the original, years are numbers: 2014 is within 5 % of 2019.
    """
    return float(any(_agree(prediction, answer) for answer in answers))


def read_number(text: str) -> tuple[Fraction, bool] | None:
    """(value as printed, whether a percent sign follows), or None if the text is more than a number.

    Thousands separators, one currency sign before or after, and a true minus sign are understood.
    """
    match = _NUMBER.fullmatch(_plain(text))
    if match is None or (match["sign"] and match["sign2"]):
        return None
    size = Fraction(match["value"].replace(",", "").rstrip("."))
    return (-size if "-" in (match["sign"], match["sign2"]) else size), match["percent"] is not None


def _agree(prediction: str, answer: str) -> bool:
    if _plain(prediction) == _plain(answer):
        return True
    said, gold = read_number(prediction), read_number(answer)
    if said is None or gold is None:
        return False
    if said[1] == gold[1]:
        return _within(said[0], gold[0])
    hundredth = (said[0] / 100, gold[0]) if said[1] else (said[0], gold[0] / 100)
    return _within(said[0], gold[0]) or _within(*hundredth)


def _within(said: Fraction, gold: Fraction) -> bool:
    return abs(said - gold) <= TOLERANCE * abs(gold)


def _plain(text: str) -> str:
    return " ".join(text.replace("−", "-").lower().split()).removesuffix(".")
