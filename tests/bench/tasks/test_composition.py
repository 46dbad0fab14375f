import re
from collections import Counter
from typing import Any

import pytest

from optmerge.bench.tasks import SIDE, drawn, get
from optmerge.bench.tasks.drawn import composition
from optmerge.bench.tasks.drawn._drawing import charts, gallery
from optmerge.bench.tasks.drawn._drawing.charts import Chart
from optmerge.bench.tasks.drawn._drawing.shapes import Item
from optmerge.bench.tasks.drawn._drawing.tiles import Wall
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import Box, iou, parse_box
from worlds.samples import examples

TASK: Any = get("composition")
CONTENTS = [TASK.content("test", index) for index in range(500)]


def asked(kind: str) -> list[tuple[Any, Question]]:
    """What the scenes of a kind show, with each of their questions."""
    found = [(each.shown, q) for each in CONTENTS if each.kind == kind for q in TASK.draw(each).questions]
    assert len(found) > 50
    return found


def words_of(name: str, scenes: int) -> set[str]:
    """The lower-case words of a task's questions, answers and captions."""
    found = set()
    for index in range(scenes):
        scene = drawn()[name].scene("train", index)
        for each in (*scene.questions, *scene.captions):
            found.update(re.findall("[a-z]+", " ".join((each.text, *each.answers))))
    return found


def covers(answer: str, box: tuple[int, int, int, int]) -> bool:
    """Whether an answer is that pixel box, to the precision of hundredths."""
    said = parse_box(answer, "hundredths")
    return said is not None and iou(said, Box(*(edge / SIDE for edge in box))) > 0.85


def test_every_kind_of_picture_and_every_type_comes_up() -> None:
    assert Counter(each.kind for each in CONTENTS).keys() == composition._KINDS.keys()
    types = Counter(q.type for each in CONTENTS for q in TASK.draw(each).questions)
    assert types.keys() == set(TASK.types)


@pytest.mark.sampled
def test_questions_use_only_words_that_a_trained_task_teaches() -> None:
    scenes = examples(few=120, many=400)
    taught = set().union(*(words_of(name, scenes) for name, task in drawn().items() if task.trained))
    assert words_of("composition", scenes) <= taught


def test_tiles_are_found_by_their_texts_and_read_by_their_colours() -> None:
    for shown, question in asked("tiles"):
        assert isinstance(shown, Wall)
        by_text = {tile.text: tile for tile in shown.tiles}
        marked = re.search("marked ([A-Z0-9]+)", question.text)
        if question.type == "grounding+ocr":
            assert marked and covers(question.answers[0], by_text[marked[1]].box)
        elif marked:
            assert question.answers == (by_text[marked[1]].colour,)
        else:
            (tile,) = [tile for tile in shown.tiles if tile.colour in question.text.split()]
            assert question.answers == (tile.text,)


def test_shapes_are_told_by_their_letters_and_letters_by_their_shapes() -> None:
    for shown, question in asked("shapes"):
        items: tuple[Item, ...] = shown.items
        marked = re.search("marked ([A-Z])", question.text)
        if marked:
            (item,) = [item for item in items if item.letter == marked[1]]
            assert question.answers == (item.colour if "color" in question.text else item.kind,)
        else:
            (item,) = [item for item in items if item.name in question.text]
            assert question.answers == (item.letter,) and item.letter


@pytest.mark.parametrize("type", ["grounding+geometry", "vqa+geometry"])
def test_figures_are_told_apart_by_their_numbers_or_by_their_places(type: str) -> None:
    for shown, question in asked("figures"):
        if question.type != type:
            continue
        one, other = gallery.twins(shown.each)
        if type == "grounding+geometry":
            numbers = sorted(int(number) for number in re.findall(r"\d+", question.text))
            (right,) = [framed for framed in (one, other) if sorted(framed.numbers) == numbers]
            assert covers(question.answers[0], gallery.box(right))
        else:
            order = {"leftmost": (0, 1), "rightmost": (0, -1), "highest": (1, 1), "lowest": (1, -1)}
            axis, sign = next(order[word] for word in question.text.split() if word in order)
            right = min((one, other), key=lambda framed: sign * gallery.box(framed)[axis])
            assert int(question.answers[0]) in {value for _, value in gallery.measures(right)}


def named_by_value(shown: Chart, words: str) -> list[int]:
    """The bars that "the largest value", "the smallest value" or "the value 30" fits."""
    if number := re.search(r"the value (\d+)", words):
        assert shown.printed
        wanted = int(number[1])
    else:
        wanted = max(shown.values) if "largest" in words else min(shown.values)
    return [row for row, value in enumerate(shown.values) if value == wanted]


def test_bars_are_found_by_label_or_value_and_told_by_their_colours() -> None:
    for shown, question in asked("bars"):
        label = re.search("bar of ([A-Z0-9]+)", question.text)
        (row,) = [shown.labels.index(label[1])] if label else named_by_value(shown, question.text)
        if question.type == "grounding+chart":
            left, top, right, bottom = charts.bars(shown)[row]
            assert covers(question.answers[0], (round(left), round(top), round(right), round(bottom)))
        else:
            assert question.answers == (shown.colours[row],)


def test_words_beside_bars_are_longer_than_a_charts_own_labels() -> None:
    for shown, question in asked("words"):
        assert all(len(label) in (4, 5) for label in shown.labels)
        word = re.search("value of ([A-Z]+)", question.text)
        if word:
            assert question.answers == (str(shown.values[shown.labels.index(word[1])]),)
        elif "value" in question.text:
            (row,) = named_by_value(shown, question.text)
            assert question.answers == (shown.labels[row],)
        else:
            (row,) = [row for row, colour in enumerate(shown.colours) if colour in question.text.split()]
            assert question.answers == (shown.labels[row],)


def test_no_crowded_scene_of_the_test_is_one_that_grounding_trains_on() -> None:
    def traits(items: tuple[Item, ...]) -> tuple[tuple[str, str, str], ...]:
        return tuple(sorted((item.kind, item.colour, item.letter) for item in items))

    mine = {traits(each.shown.items) for each in CONTENTS if each.kind == "shapes"}
    grounding: Any = get("grounding")
    trained = {traits(grounding.content("train", index).items) for index in range(2000)}
    assert mine and not mine & trained


@pytest.mark.parametrize(
    ("type", "gold", "prediction", "score"),
    [
        ("vqa+ocr", "red", "Red.", 1.0),
        ("vqa+ocr", "red", "blue", 0.0),
        ("grounding+ocr", "[10, 10, 50, 50]", "[10, 10, 50, 40]", 1.0),
        ("grounding+ocr", "[10, 10, 50, 50]", "[60, 10, 90, 40]", 0.0),
        ("chart+ocr", "20", "21", 1.0),
        ("chart+ocr", "SNOW", "SHOW", 0.0),
        ("vqa+geometry", "20", "20.0", 1.0),
        ("vqa+geometry", "20", "24", 0.0),
    ],
)
def test_the_score_follows_the_type(type: str, gold: str, prediction: str, score: float) -> None:
    assert TASK.metric(prediction, Question("?", (gold,), type)) == score
