import math
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from PIL import ImageChops

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing import figures, problems
from optmerge.bench.tasks.drawn._drawing.problems import Problem
from optmerge.bench.tasks.drawn._drawing.strokes import Figure, Label, half_size, render
from optmerge.bench.tasks.drawn.geometry import TASK, Drawn, draw
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.choices import read_options

CONTENTS: list[Drawn] = [TASK.content("train", index) for index in range(1500)]
BY_SHAPE: dict[str, list[Drawn]] = defaultdict(list)
for content in CONTENTS:
    BY_SHAPE[content.problem.shape].append(content)
WITH_ANGLES = ("triangle of angles", "isosceles", "rays", "crossing", "parallels")
WITH_LENGTHS = ("triangle of sides", "right triangle", "rectangle", "square", "polygon")


def said(question: Question) -> str:
    """The answer in full: the option that the letter stands for, where there are options."""
    options = read_options(question.text)
    return options[question.answers[0]] if options else question.answers[0]


def arc_of(figure: Figure, label: Label) -> float:
    """The size in degrees of the marked angle nearest to a label; between lines, of those it is in."""

    def off(arc: tuple[tuple[float, float], float, float, float]) -> tuple[bool, float]:
        (x, y), _, first, last = arc
        seen = math.degrees(math.atan2(label.at[1] - y, label.at[0] - x))
        return not figure.area and (seen - first) % 360 > last - first, math.dist(label.at, (x, y))

    _, _, first, last = min(figure.arcs, key=off)
    return last - first


def outline(figure: Figure) -> tuple[float, float]:
    """Perimeter and area of a figure in pixels."""
    closed = [*figure.area, figure.area[0]]
    area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(closed)) / 2
    return sum(math.dist(a, b) for a, b in pairwise(closed)), abs(area)


@pytest.mark.parametrize("shape", WITH_ANGLES)
def test_every_angle_is_drawn_as_large_as_it_is_printed_or_answered(shape: str) -> None:
    for content in BY_SHAPE[shape]:
        figure = problems.figure(content.problem)
        answers = {
            match[1]: int(said(question))
            for question in draw(content).questions
            if (match := re.search(r"angle ([xy])\b", question.text))
        }
        unknown = {label.text for label in figure.labels if not label.text.isdigit()}
        assert answers.keys() == unknown and unknown
        for label in figure.labels:
            size = answers.get(label.text) or int(label.text)
            assert arc_of(figure, label) == pytest.approx(size, abs=0.01), content


@pytest.mark.parametrize("shape", WITH_LENGTHS)
def test_perimeter_and_area_are_those_of_the_drawing(shape: str) -> None:
    measured = 0
    for content in BY_SHAPE[shape]:
        problem, figure = content.problem, problems.figure(content.problem)
        if shape in ("right triangle", "rectangle") and max(problem.numbers) > 2 * min(problem.numbers):
            continue  # drawn with softened proportions
        perimeter, area = outline(figure)
        corners = figure.area
        first = math.dist(corners[0], corners[2] if shape == "triangle of sides" else corners[1])
        unit = first / problem.numbers[1 if shape == "polygon" else 0]
        for question in draw(content).questions:
            if "perimeter" in question.text or "way around" in question.text:
                assert int(said(question)) == pytest.approx(perimeter / unit, rel=1e-6)
                measured += 1
            elif "area" in question.text:
                assert int(said(question)) == pytest.approx(area / unit**2, rel=1e-6)
                measured += 1
    assert measured > 20


def test_readings_are_printed_beside_the_side_they_ask_for() -> None:
    measured = 0
    for content in (*BY_SHAPE["triangle of sides"], *BY_SHAPE["right triangle"], *BY_SHAPE["rectangle"]):
        figure = problems.figure(content.problem)
        at = {label.text: label.at for label in figure.labels}
        for question in draw(content).questions:
            named = re.search(r"(?:long is|length of) side ([A-Z])([A-Z])\b", question.text)
            if named is None or "longer" in question.text:
                continue
            ends = [
                min(figure.area, key=lambda corner: math.dist(corner, at[letter]))
                for letter in named.groups()
            ]
            middle = ((ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2)
            lengths = [label for label in figure.labels if label.text.isdigit()]
            assert min(lengths, key=lambda label: math.dist(label.at, middle)).text == said(question)
            measured += 1
    assert measured > 200


def test_radius_and_diameter_are_told_apart_by_the_line() -> None:
    for content in BY_SHAPE["circle"]:
        figure = problems.figure(content.problem)
        unit = math.dist(*figure.lines[0]) / int(figure.labels[0].text)
        radius = figure.rings[0][1] / unit
        for question in draw(content).questions:
            wanted = radius if "radius" in question.text else 2 * radius
            assert int(said(question)) == pytest.approx(wanted)


def test_a_polygon_has_as_many_corners_as_is_answered() -> None:
    for content in BY_SHAPE["polygon"]:
        figure = problems.figure(content.problem)
        counts = [said(q) for q in draw(content).questions if "how many" in q.text]
        assert counts == [str(len(figure.area))]


def test_triangles_are_named_by_what_is_drawn() -> None:
    for content in (*BY_SHAPE["triangle of angles"], *BY_SHAPE["triangle of sides"]):
        a, b, c = problems.figure(content.problem).area
        lengths = sorted(math.dist(*pair) for pair in ((a, b), (b, c), (c, a)))
        bend = lengths[2] ** 2 / (lengths[0] ** 2 + lengths[1] ** 2)
        by_angles = "right" if abs(bend - 1) < 1e-6 else "acute" if bend < 1 else "obtuse"
        equal = sum(math.isclose(*pair) for pair in combinations(lengths, 2))
        by_sides = {0: "scalene", 1: "isosceles", 3: "equilateral"}[equal]
        [named] = [q for q in draw(content).questions if q.type == "kind"]
        assert named.answers == (by_angles if "angles" in named.text else by_sides,)


def test_options_are_four_different_numbers_and_one_is_right() -> None:
    listed = [q for content in CONTENTS for q in draw(content).questions if "choice" in q.type]
    assert len(listed) > 500
    for question in listed:
        options = read_options(question.text)
        assert list(options) == list("ABCD")
        assert len(set(options.values())) == 4
        assert all(int(option) > 0 for option in options.values())


def test_reading_a_printed_number_off_answers_few_of_the_derived_questions() -> None:
    hits: Counter[bool] = Counter()
    for content in CONTENTS:
        printed = [label.text for label in problems.figure(content.problem).labels if label.text.isdigit()]
        for question in draw(content).questions:
            if question.type not in TASK.known and question.type != "kind":
                hits[said(question) == random.Random(content.words).choice(printed)] += 1
    assert hits[True] / hits.total() < 0.2


def test_every_label_changes_pixels_in_its_own_place() -> None:
    for content in CONTENTS[:150]:
        figure, style = problems.figure(content.problem), content.problem.style
        whole = render(figure, style)
        for label in figure.labels:
            without = replace(figure, labels=tuple(other for other in figure.labels if other != label))
            box = ImageChops.difference(whole, render(without, style)).getbbox()
            assert box is not None and math.dist(label.at, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)) < 4


def test_labels_neither_touch_each_other_nor_leave_the_picture() -> None:
    crowded = 0
    for content in CONTENTS:
        labels = problems.figure(content.problem).labels
        for label in labels:
            wide, tall = half_size(label.text)
            assert wide <= label.at[0] <= SIDE - wide and tall <= label.at[1] <= SIDE - tall
        for one, other in combinations(labels, 2):
            (w1, t1), (w2, t2) = half_size(one.text), half_size(other.text)
            crowded += (
                abs(one.at[0] - other.at[0]) < w1 + w2 - 3 and abs(one.at[1] - other.at[1]) < t1 + t2 - 3
            )
    assert crowded == 0


def test_a_figure_in_another_style_or_wording_lies_in_the_same_split() -> None:
    def figure(problem: Problem) -> object:
        return replace(problem, style=CONTENTS[0].problem.style)

    trained = {figure(content.problem) for content in CONTENTS}
    tested = {figure(TASK.content("test", index).problem) for index in range(300)}
    assert not trained & tested


def test_equal_sides_carry_a_tick_each() -> None:
    layout = figures.Layout(0, False, False, (10, 20, 100, 90))
    plain = figures.triangle_of_angles(("", "40", "x"), (40, 40, 100), layout, False)
    ticked = figures.triangle_of_angles(("", "40", "x"), (40, 40, 100), layout, True)
    assert len(plain.lines) == 3
    left, right, apex = ticked.area
    middles = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in ((left, apex), (right, apex))]
    for start, end in ticked.lines[3:]:
        assert ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2) in middles
    assert len(ticked.lines) == 5
