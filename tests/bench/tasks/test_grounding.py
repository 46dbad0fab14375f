"""Expressions are resolved again from their words, by other means than the task's own."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from PIL import ImageChops

from optmerge.bench import tasks as registry
from optmerge.bench.tasks.drawn import grounding
from optmerge.bench.tasks.drawn._drawing.place_words import box_words
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, render
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import iou, parse_box
from worlds.samples import sample

TASK: Any = registry.get("grounding")
CONTENTS = [TASK.content("test", index) for index in range(400)]
WORD = rf"(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(KINDS)}|shape)"
SIDES = "left of|right of|above|below"


def members(word: Any, items: Any) -> list[Any]:
    """The shapes that a word such as "red shape", "star" or "red star" fits."""
    *colour, kind = word.split()
    return [i for i in items if kind in ("shape", i.kind) and (not colour or colour[0] == i.colour)]


def referred(text: str, items: Any) -> Any:
    """Every shape that the question may mean."""
    if found := re.search(r"shape (?:marked|with the letter) ([A-Z])", text):
        return [item for item in items if item.letter == found[1]]
    if found := re.search(rf"the ({WORD}) ({SIDES}) the (?:letter ([A-Z])|({WORD}))", text):
        word, side, letter, other = found.groups()
        anchor = [item for item in items if item.letter == letter] if letter else members(other, items)
        assert len(anchor) == 1
        across, forward = side in ("left of", "right of"), side in ("right of", "below")
        centre = (lambda item: item.x) if across else (lambda item: item.y)
        at = centre(anchor[0])
        return [i for i in members(word, items) if i not in anchor and (centre(i) > at) == forward]
    if found := re.search(rf"(biggest|smallest) ({WORD})", text):
        group = members(found[2], items)
        size = (max if found[1] == "biggest" else min)(item.size for item in group)
        return [item for item in group if item.size == size]
    if found := re.search(rf"second ({WORD}) from the (left|right|top|bottom)", text):
        return [ordered(members(found[1], items), found[2])[1]]
    if found := re.search(rf"(leftmost|rightmost|highest|lowest) ({WORD})", text):
        end = {"leftmost": "left", "rightmost": "right", "highest": "top", "lowest": "bottom"}[found[1]]
        return [ordered(members(found[2], items), end)[0]]
    return members(re.findall(rf"the ({WORD})[.?]", text)[0], items)


def ordered(group: Any, end: Any) -> list[Any]:
    left, top, right, bottom = range(4)
    edge = {"left": left, "right": right, "top": top, "bottom": bottom}[end]

    def centre(item: Any) -> Any:
        return item.box[edge % 2] + item.box[edge % 2 + 2]

    return sorted(group, key=centre, reverse=edge >= 2)


def test_every_expression_fits_exactly_one_shape_whose_box_is_the_answer() -> None:
    seen = Counter()
    for content in CONTENTS:
        for question in grounding.draw(content).questions:
            found = referred(question.text, content.items)
            assert [box_words(item.box) for item in found] == list(question.answers), question
            seen[question.type] += 1
    assert set(seen) == set(TASK.types) and min(seen.values()) > 250


def test_unknown_types_need_more_than_the_words_for_a_shape() -> None:
    """Who reads "the biggest red star" as "red star" has two or more shapes to choose from."""
    for content in CONTENTS:
        for question in grounding.draw(content).questions:
            if question.type in ("size", "position", "relation"):
                asked = question.text.split(" from the ")[0]
                word = re.findall(rf"({WORD})(?: (?:{SIDES})|[.?]|$)", asked)[0]
                assert len(members(word, content.items)) >= 2, question.text


@pytest.mark.sampled
def test_most_of_every_shape_is_visible_where_its_box_says() -> None:
    for content in sample(CONTENTS, 100):
        whole = render(content.items, content.style)
        for index, item in enumerate(content.items):
            others = content.items[:index] + content.items[index + 1 :]
            shown = ImageChops.difference(whole, render(others, content.style)).convert("L")
            box = shown.point(lambda value: 255 * (value > 8)).getbbox()
            said = parse_box(box_words(item.box), "hundredths")
            seen = parse_box(box_words(box), "hundredths")
            assert iou(said, seen) > 0.6


def test_pictures_are_crowded_and_letters_are_not_repeated() -> None:
    numbers = Counter(len(content.items) for content in CONTENTS)
    assert set(numbers) == {5, 6, 7, 8, 9} and min(numbers.values()) > 40
    for content in CONTENTS:
        letters = [item.letter for item in content.items if item.letter]
        assert len(letters) == len(set(letters))


def test_a_shape_is_never_covered_by_more_than_a_third() -> None:
    for content in CONTENTS:
        for index, item in enumerate(content.items):
            left, top, right, bottom = item.box
            covered = sum(
                max(0, min(right, r) - max(left, x)) * max(0, min(bottom, b) - max(top, y))
                for x, y, r, b in (other.box for other in content.items[index + 1 :])
            )
            assert covered <= item.size**2 / 3


@pytest.mark.parametrize(
    ("said", "share", "mean"),
    [
        ("[10, 10, 30, 30]", 1.0, 1.0),
        ("[10, 10, 30, 20]", 1.0, 0.5),
        ("[10, 10, 30, 19]", 0.0, 0.45),
        ("[20, 10, 40, 30]", 0.0, 1 / 3),
        ("[50, 50, 70, 70]", 0.0, 0.0),
        ("the red star", 0.0, 0.0),
        ("[10, 10, 30", 0.0, 0.0),
    ],
)
def test_boxes_are_scored_by_their_overlap(said: Any, share: Any, mean: Any) -> None:
    question = Question("where is the red star?", ("[10, 10, 30, 30]",), "attributes")
    scores = [metric(said, question) for metric in TASK.metrics.values()]
    assert scores == pytest.approx([share, mean])


@pytest.mark.sampled
def test_the_best_blind_box_is_seldom_right() -> None:
    questions = [
        question for content in sample(CONTENTS, 50) for question in grounding.draw(content).questions
    ]
    corners = [(x, y) for x in range(2, 80, 12) for y in range(2, 80, 12)]
    guesses = [f"[{x}, {y}, {x + size}, {y + size}]" for x, y in corners for size in (20, 25)]
    best = max(sum(TASK.metric(guess, question) for question in questions) for guess in guesses)
    assert best / len(questions) < 0.1
