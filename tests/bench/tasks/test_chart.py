from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image, ImageChops

from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._data.chart_tables import labels
from optmerge.bench.tasks.drawn._drawing import charts
from optmerge.bench.tasks.drawn._drawing.charts import SIZE, Chart, bars, points, render
from optmerge.bench.tasks.drawn._drawing.fonts import font
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS
from optmerge.bench.tasks.drawn.chart import TASK, Drawn, draw
from optmerge.evaluate.questions import Question

CONTENTS: list[Drawn] = [TASK.content("train", index) for index in range(600)]
UPRIGHT = [content for content in CONTENTS if content.chart.kind in ("columns", "rows")]


def asked(kinds: tuple[str, ...], type: str) -> list[tuple[Chart, Question]]:
    found = [
        (content.chart, question)
        for content in CONTENTS
        if content.chart.kind in kinds
        for question in draw(content).questions
        if question.type == type
    ]
    assert len(found) > 40, type
    return found


def named(chart: Chart, question: Question) -> list[int]:
    """The values of the labels in a question."""
    printed = re.findall(r"\b[A-Z]{1,3}\b|\b\d\d\b", question.text)
    return [chart.values[chart.labels.index(label)] for label in printed if label in chart.labels]


def colour_at(image: Image.Image, x: float, y: float) -> str | None:
    return {rgb: name for name, rgb in COLOURS.items()}.get(image.getpixel((round(x), round(y))))


def test_bars_reach_as_far_as_their_values_in_the_pixels() -> None:
    """Counted along the middle of every bar: pixels of its colour, as a share of the whole axis."""
    for content in UPRIGHT[:300]:
        chart, image = content.chart, render(content.chart)
        full = bars(replace(chart, rows=((chart.top,) * len(chart.labels),)))
        for box, whole, value, colour in zip(
            bars(chart), full, chart.values, chart.colours * len(chart.labels), strict=False
        ):
            left, top, right, bottom = box
            if chart.kind == "columns":
                middle, length = (left + right) / 2, whole[3] - whole[1]
                seen = sum(colour_at(image, middle, y) == colour for y in range(SIDE))
            else:
                middle, length = (top + bottom) / 2, whole[2] - whole[0]
                seen = sum(colour_at(image, x, middle) == colour for x in range(SIDE))
            assert seen == pytest.approx(length * value / chart.top, abs=2.5), chart


def test_every_axis_step_of_a_tenth_is_several_pixels() -> None:
    for content in UPRIGHT:
        chart = content.chart
        if not chart.printed:
            left, top, right, bottom = bars(replace(chart, rows=((chart.top,) * len(chart.labels),)))[0]
            assert (bottom - top if chart.kind == "columns" else right - left) >= 50


def test_colours_are_those_at_the_marks() -> None:
    for chart, question in asked(("columns", "rows"), "colour"):
        image, [answer] = render(chart), question.answers
        wanted = re.findall(r"[A-Z]+", question.text) or chart.labels
        for label in wanted:
            left, top, right, bottom = bars(chart)[chart.labels.index(label)]
            assert colour_at(image, (left + right) / 2, (top + bottom) / 2) == answer


def test_lines_pass_through_their_points_in_their_colour() -> None:
    for content in CONTENTS:
        chart = content.chart
        if chart.kind in ("line", "lines"):
            image = render(chart)
            for row, colour in enumerate(chart.colours):
                hits = [colour_at(image, x, y) == colour for x, y in points(chart, row)]
                assert sum(hits) >= len(hits) - (len(chart.rows) > 1) * 2  # the other line may lie on top


def test_labels_are_printed_under_or_beside_their_marks() -> None:
    """A chart without its label differs there and nowhere else."""
    for content in UPRIGHT[:100]:
        chart, number = content.chart, len(content.chart.labels)
        blank = replace(chart, labels=(chart.labels[0], *(" " * len(label) for label in chart.labels[1:])))
        changed = ImageChops.difference(render(chart), render(blank))
        for (left, top, right, bottom), label in zip(bars(chart)[1:], chart.labels[1:], strict=True):
            at = (left, SIDE - 16, right, SIDE) if chart.kind == "columns" else (0, top, left - 2, bottom)
            part = changed.crop(tuple(round(edge) for edge in at)).convert("L")
            assert sum(part.point(lambda v: v > 60).getdata()) > 12, (label, number)


@pytest.mark.parametrize("type", ["value", "axis"])
def test_values_are_those_of_the_label(type: Any) -> None:
    for chart, question in asked(charts.KINDS, type):
        assert [int(answer) for answer in question.answers] == named(chart, question)
        assert chart.printed == (type == "value")


def test_differences_and_sums_are_worked_out() -> None:
    for chart, question in asked(charts.KINDS, "difference"):
        one, other = named(chart, question)
        assert question.answers == (str(max(one, other) - min(one, other)),) != ("0",)
    for chart, question in asked(charts.KINDS, "sum"):
        one, other = named(chart, question)
        assert question.answers == (str(one + other),)


def test_extremes_are_unique_and_right() -> None:
    for chart, question in asked(("columns", "rows", "line", "pie"), "extreme"):
        value = chart.values[chart.labels.index(question.answers[0])]
        others = list(chart.values)
        others.remove(value)
        assert all(value > o if "largest" in question.text else value < o for o in others)
    for chart, question in asked(charts.KINDS, "peak"):
        ordered = sorted(chart.values)
        assert question.answers == (str(ordered[-1 if "largest" in question.text else 0]),)


def test_of_two_lines_the_higher_is_higher_in_the_picture() -> None:
    for chart, question in asked(("lines",), "extreme"):
        end = 0 if "starts" in question.text else -1
        heights = {label: -points(chart, row)[end][1] for row, label in enumerate(chart.labels)}
        best = (max if "higher" in question.text else min)(heights, key=heights.__getitem__)
        assert question.answers == (best,)


def test_marks_above_a_limit_are_counted_and_none_lies_on_it() -> None:
    for chart, question in asked(charts.KINDS, "above"):
        limit = int(re.findall(r"\d+", question.text)[0])
        assert limit not in chart.values
        beyond = [value for value in chart.values if (value > limit) == ("above" in question.text)]
        assert question.answers == (str(len(beyond)),)


def test_trends_follow_the_points_of_the_picture() -> None:
    names = {(1,): "rising", (-1,): "falling", (1, -1): "up then down", (-1, 1): "down then up"}
    for chart, question in asked(("line", "lines"), "trend"):
        row = 0
        if chart.kind == "lines":
            row = next(
                i
                for i, (label, colour) in enumerate(zip(chart.labels, chart.colours, strict=True))
                if f" {label}" in question.text or f" {colour} " in question.text
            )
        steps = [round(math.copysign(1, a[1] - b[1])) for a, b in pairwise(points(chart, row))]
        turns = tuple(step for step, before in zip(steps, [0, *steps], strict=False) if step != before)
        assert question.answers == (names[turns],)


def test_shares_of_a_pie_are_its_angles_and_make_a_hundred() -> None:
    pies = [content.chart for content in CONTENTS if content.chart.kind == "pie"]
    for chart in pies:
        assert sum(chart.values) == 100
        for (first, last), value in zip(charts.slices(chart), chart.values, strict=True):
            assert last - first == pytest.approx(3.6 * value)


def test_half_of_the_charts_show_real_tables() -> None:
    real = sum(bool(content.about) for content in CONTENTS) / len(CONTENTS)
    assert 0.35 < real < 0.6


def test_what_a_test_chart_is_about_is_in_no_training_chart() -> None:
    trained = {name for content in CONTENTS for name in content.about}
    tested = {name for index in range(250) for name in TASK.content("test", index).about}
    assert len(tested) > 15 and not trained & tested


def test_made_up_labels_are_not_real_ones() -> None:
    made_up = {label for content in CONTENTS if not content.about for label in content.chart.labels}
    assert len(made_up) > 100 and not made_up & labels()


def test_print_is_twelve_pixels_tall() -> None:
    for family in charts.FAMILIES:
        _, top, _, bottom = font(family, SIZE).getbbox("H")
        assert bottom - top >= 11.5


def test_print_is_not_cut_off_at_the_edges() -> None:
    """Nothing but bars and lines ends at the picture's edge: a column or row there is of one colour."""
    for content in UPRIGHT[:400]:
        image = render(content.chart)
        for edge in ((0, 0, 1, SIDE - 18), (SIDE - 1, 0, SIDE, SIDE - 18)):
            assert len(image.crop(edge).getcolors() or []) <= 1 + (content.chart.kind == "columns"), content


def test_labels_side_by_side_do_not_touch() -> None:
    for content in CONTENTS:
        chart = content.chart
        if chart.kind in ("columns", "line"):
            boxes = [(left + right) / 2 for left, _, right, _ in bars(chart)]
            middles = boxes if chart.kind == "columns" else [x for x, _ in points(chart)]
            lengths = [font(chart.look.family, SIZE).getlength(label) for label in chart.labels]
            for (x1, w1), (x2, w2) in pairwise(zip(middles, lengths, strict=True)):
                assert x2 - x1 >= (w1 + w2) / 2, chart


def test_answers_within_five_per_cent_count_and_exact_match_wants_the_number() -> None:
    question = Question("what is the value of A?", ("40",), "value")
    relaxed, exact = TASK.metrics["relaxed_accuracy"], TASK.metrics["exact_match"]
    assert [relaxed(said, question) for said in ("40", "42", "38", "43", "40 %")] == [1, 1, 1, 0, 1]
    assert [exact(said, question) for said in ("40", "42")] == [1, 0]


def test_kinds_of_chart_all_come() -> None:
    kinds = Counter(content.chart.kind for content in CONTENTS)
    assert all(kinds[kind] > 50 for kind in charts.KINDS)
