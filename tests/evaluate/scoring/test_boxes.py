import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optmerge.errors import InputError
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring.boxes import Box, Form, iou, iou_at, parse_box

PLACES = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (x1, x2), (y1, y2) = (sorted(draw(st.tuples(PLACES, PLACES))) for _ in "xy")
    return Box(x1, y1, x2, y2)


@pytest.mark.parametrize(
    ("text", "form", "size", "box"),
    [
        ("<ref>the dog</ref><box>(100,200),(500,800)</box>", "qwen2_vl", None, (0.1, 0.2, 0.5, 0.8)),
        (
            "<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(100,200),(500,800)<|box_end|>",
            "qwen2_vl",
            None,
            (0.1, 0.2, 0.5, 0.8),
        ),
        ("the dog(100, 200), (500, 800)", "qwen2_vl", None, (0.1, 0.2, 0.5, 0.8)),  # special tokens dropped
        (
            '```json\n[\n\t{"bbox_2d": [64, 96, 320, 384], "label": "dog 2"}\n]\n```',
            "qwen2_5_vl",
            (640, 480),
            (0.1, 0.2, 0.5, 0.8),
        ),
        ("<ref>dog</ref><box>[[100, 200, 500, 800]]</box>", "internvl", None, (0.1, 0.2, 0.5, 0.8)),
        ("dog[[100, 200, 500, 800]]", "internvl", None, (0.1, 0.2, 0.5, 0.8)),
        ("[0.1, 0.20, 0.5, 0.8]", "fraction", None, (0.1, 0.2, 0.5, 0.8)),
        ("[10, 20, 50, 80]", "hundredths", None, (0.1, 0.2, 0.5, 0.8)),
        ("[ 10 , 20 , 50 , 80 ]", "hundredths", None, (0.1, 0.2, 0.5, 0.8)),
        ("the box is [10,20,50,80].", "hundredths", None, (0.1, 0.2, 0.5, 0.8)),
    ],
)
def test_each_form_is_read_in_its_scale_by_name_and_by_itself(
    text: str, form: Form, size: tuple[int, int] | None, box: tuple[float, ...]
) -> None:
    named = parse_box(text, form, size=size)
    assert named is not None
    assert (named.x1, named.y1, named.x2, named.y2) == pytest.approx(box)
    bare_thousandths = form == "internvl" and "<box>" not in text
    assert bare_thousandths or parse_box(text, size=size) == named


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0, 0, 1, 1]", Box(0, 0, 0.01, 0.01)),  # no decimal point: hundredths
        ("[0.0, 0, 1, 1]", Box(0, 0, 1, 1)),
        ("(0.1, 0.2), (0.5, 0.8)", Box(0.1, 0.2, 0.5, 0.8)),
        ("[0, 0, 100, 100]", Box(0, 0, 1, 1)),
        ("[0, 0, 101, 100]", Box(0, 0, 0.101, 0.1)),  # above 100: thousandths
        ("<box>[[0, 0, 50, 50]]</box>", Box(0, 0, 0.05, 0.05)),  # the markup outweighs the numbers
        ("(0,0),(50,50)", Box(0, 0, 0.05, 0.05)),
        ("[0, 0, 1001, 5]", None),
    ],
)
def test_the_automatic_rule_decides_by_markup_then_by_size(text: str, box: Box | None) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[50, 80, 10, 20]", Box(0.1, 0.2, 0.5, 0.8)),  # corners swapped
        ("[50, 20, 10, 80]", Box(0.1, 0.2, 0.5, 0.8)),
        ("[10, 20, 50, 80] or [1, 2, 3, 4]", Box(0.1, 0.2, 0.5, 0.8)),  # the first counts
        ("[10, 20, 50, 80], [1, 2, 3]", Box(0.1, 0.2, 0.5, 0.8)),
        ("[10, 20, 10, 20]", Box(0.1, 0.2, 0.1, 0.2)),
        ("[-10, 20, 150, 80]", Box(-0.1, 0.2, 1.5, 0.8)),
        ("[10, 20, 50]", None),
        ("[10, 20, 50, 80, 90]", None),
        ("[10 20 50 80]", None),
        ("10, 20, 50, 80", None),
        ("(10, 20)", None),
        ("[a, b, c, d]", None),
        ("[10, 20, 50, 80", None),
        ("a red square", None),
        ("", None),
    ],
)
def test_odd_boxes_are_put_right_and_nonsense_is_no_box(text: str, box: Box | None) -> None:
    assert parse_box(text, "hundredths") == box


@pytest.mark.parametrize("form", ["auto", "qwen2_5_vl"])
def test_pixels_without_a_size_are_refused(form: Form) -> None:
    with pytest.raises(InputError, match="size"):
        parse_box('{"bbox_2d": [1, 2, 3, 4]}', form)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Box(0, 0, 0.5, 0.5), Box(0, 0, 0.5, 0.5), 1.0),
        (Box(0, 0, 0.5, 0.5), Box(0.25, 0, 0.75, 0.5), 1 / 3),
        (Box(0, 0, 0.5, 0.5), Box(0.25, 0.25, 0.75, 0.75), 1 / 7),
        (Box(0, 0, 1, 1), Box(0.25, 0.25, 0.75, 0.75), 0.25),
        (Box(0, 0, 0.5, 0.5), Box(0.5, 0, 1, 0.5), 0.0),  # edges touch
        (Box(0, 0, 0.2, 0.2), Box(0.6, 0.6, 0.8, 0.8), 0.0),  # apart in both directions
        (Box(0.5, 0, 0.5, 1), Box(0.5, 0, 0.5, 1), 0.0),  # no area
        (Box(0, 0, 1, 1), Box(0.5, 0.5, 0.5, 0.5), 0.0),
    ],
)
def test_iou_on_cases_worked_by_hand(a: Box, b: Box, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)


@given(boxes(), boxes())
def test_iou_is_symmetric_and_within_zero_and_one(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0
    assume(a.area > 0)
    assert iou(a, a) == 1.0


@given(boxes(), boxes())
def test_iou_counts_cells_of_a_grid(a: Box, b: Box) -> None:
    def cells(box: Box) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (round(20 * edge) for edge in (box.x1, box.y1, box.x2, box.y2))
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    def snapped(box: Box) -> Box:
        return Box(*(round(20 * edge) / 20 for edge in (box.x1, box.y1, box.x2, box.y2)))

    mine, yours = cells(a), cells(b)
    expected = len(mine & yours) / len(mine | yours) if mine & yours else 0.0
    assert iou(snapped(a), snapped(b)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("[10, 10, 50, 50]", 1.0),
        ("[10, 10, 50, 30]", 1.0),  # exactly half
        ("[10, 10, 50, 29]", 0.0),
        ("[50, 50, 10, 10]", 1.0),
        ("[60, 60, 90, 90]", 1.0),  # the second gold box
        ("[1, 2, 3]", 0.0),
        ("red", 0.0),
    ],
)
def test_iou_at_a_half_counts_boxes_that_cover_a_gold_one(prediction: str, expected: float) -> None:
    question = Question("where is it?", ("[10, 10, 50, 50]", "[60, 60, 90, 90]"), "box")
    assert iou_at(0.5)(prediction, question) == expected


@given(boxes())
def test_a_box_survives_being_written_as_fractions(box: Box) -> None:
    text = f"[{box.x1:.6f}, {box.y1:.6f}, {box.x2:.6f}, {box.y2:.6f}]"
    read = parse_box(text)
    assert read is not None
    assert (read.x1, read.y1, read.x2, read.y2) == pytest.approx((box.x1, box.y1, box.x2, box.y2), abs=1e-6)
