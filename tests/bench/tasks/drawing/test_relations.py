import random
import re

import pytest

from optmerge.bench.tasks.drawn._drawing.question_makers import APART, BIGGER
from optmerge.bench.tasks.drawn._drawing.relations import relations
from optmerge.bench.tasks.drawn._drawing.sheets import Mark, called, sheet
from optmerge.evaluate.questions import Question

SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
ENDS = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}
SEEDS = range(60)


def asked(seed: int) -> tuple[tuple[Mark, ...], tuple[Question, ...]]:
    rng = random.Random(seed)
    marks = sheet(rng)[1]
    return marks, relations(rng, marks, 30)


def meant(word: str, marks: tuple[Mark, ...]) -> list[Mark]:
    """The marks that "mark", "red mark" or "star" mean."""
    if word == "mark":
        return list(marks)
    return [mark for mark in marks if word in (mark.name, f"{mark.colour} mark")]


def of_whom(text: str, marks: tuple[Mark, ...]) -> Mark | None:
    """The mark that the question's place means, found another way than the maker does."""
    if end := re.fullmatch(r"what (?:is|color is) the (leftmost|rightmost|highest|lowest) (.+)\?", text):
        axis, sign = ENDS[end[1]]
        found = meant(end[2], marks)
        best = max(found, key=lambda mark: sign * mark.centre[axis])
        gaps = [abs(mark.centre[axis] - best.centre[axis]) for mark in found if mark is not best]
        return best if min(gaps) >= APART else None
    if size := re.fullmatch(r"what (?:is|color is) the (biggest|smallest) (.+)\?", text):
        widths = sorted(mark.width for mark in meant(size[2], marks))
        one = widths[-1] if size[1] == "biggest" else widths[0]
        ratio = one / widths[-2] if size[1] == "biggest" else widths[1] / one
        assert ratio >= BIGGER
        (best,) = [mark for mark in meant(size[2], marks) if mark.width == one]
        return best
    if beside := re.fullmatch(r"what (?:is|color is) the (.+) (left of|right of|above|below) (.+)\?", text):
        (anchor,) = [mark for mark in marks if called(mark) == beside[3]]
        axis, sign = SIDES[beside[2]]
        others = [mark for mark in meant(beside[1], marks) if mark is not anchor]
        (there,) = [mark for mark in others if sign * (mark.centre[axis] - anchor.centre[axis]) > 0]
        return there
    if second := re.fullmatch(
        r"what (?:is|color is) the second (.+) from the (left|right|top|bottom)\?", text
    ):
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[second[2]]
        return sorted(meant(second[1], marks), key=lambda mark: sign * mark.centre[axis])[1]
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_place_means_one_mark_and_the_answer_is_what_it_is(seed: int) -> None:
    marks, questions = asked(seed)
    for question in questions:
        if question.text.startswith(("what is the", "what color is the")):
            mark = of_whom(question.text, marks)
            assert mark is not None, question.text
            told = mark.colour if question.text.startswith("what color") else mark.name
            assert question.answers == (told,), question.text


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_counts_and_whether_are_right(seed: int) -> None:
    marks, questions = asked(seed)
    for text, (answer,) in ((question.text, question.answers) for question in questions):
        if number := re.fullmatch(r"how many marks are (.+)\?", text):
            assert int(answer) == sum(number[1] in (mark.name, mark.colour) for mark in marks)
        elif half := re.fullmatch(r"half of (\d+)\?", text):
            assert 2 * int(answer) == int(half[1])
        elif text[0].isdigit():
            for word, sign in (("plus", "+"), ("minus", "-"), ("times", "*")):
                text = text.replace(word, sign)
            assert int(answer) == eval(text.rstrip("?"))
        elif side := re.fullmatch(r"is (.+) (left of|right of|above|below) (.+)\?", text):
            one, other = ([m for m in marks if called(m) == side[i]] for i in (1, 3))
            axis, sign = SIDES[side[2]]
            step = sign * (one[0].centre[axis] - other[0].centre[axis])
            assert len(one) == len(other) == 1 and abs(step) >= APART
            assert answer == ("yes" if step > 0 else "no")


def test_every_kind_of_question_comes_up_and_none_twice() -> None:
    texts = [question.text for seed in SEEDS for question in asked(seed)[1]]
    kinds = ("leftmost", "second", "above", "biggest", "how many", "plus", "minus", "times", "half", "is ")
    assert all(any(kind in text for text in texts) for kind in kinds)
    for seed in SEEDS:
        questions = asked(seed)[1]
        assert len(questions) == len({question.text for question in questions}) <= 30
        assert all(len(question.answers[0].split()) == 1 for question in questions)


def test_no_task_asks_the_same() -> None:
    from optmerge.bench.tasks import drawn

    told = {question.text for seed in SEEDS for question in asked(seed)[1]}
    for task in drawn().values():
        for index in range(40):
            assert not told & {question.text for question in task.scene("train", index).questions}
