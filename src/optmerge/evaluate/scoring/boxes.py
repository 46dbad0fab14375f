"""Boxes as vision-language models write them, and IoU.

| form         | as written                                                        | scale              |
|--------------|-------------------------------------------------------------------|--------------------|
| `qwen2_vl`   | `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`, Qwen-VL `<box>(…),(…)`   | thousandths        |
| `qwen2_5_vl` | `{"bbox_2d": [x1, y1, x2, y2], "label": "…"}`                     | pixels             |
| `internvl`   | `<ref>…</ref><box>[[x1, y1, x2, y2]]</box>`                       | thousandths        |
| `fraction`   | `[0.12, 0.3, 0.5, 0.75]` (LLaVA)                                  | 1                  |
| `hundredths` | `[12, 30, 50, 75]` (this benchmark's tasks)                       | hundredths         |

The form decides the scale only: the numbers are found the same way in all of them, so an answer whose
special tokens were dropped by the decoder is still read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from optmerge.errors import InputError

if TYPE_CHECKING:
    from optmerge.evaluate.questions import Metric, Question

Form = Literal["auto", "qwen2_vl", "qwen2_5_vl", "internvl", "fraction", "hundredths"]
PictureSize = tuple[int, int]
"""Width and height in pixels."""

_SCALES = {"qwen2_vl": 1000.0, "internvl": 1000.0, "fraction": 1.0, "hundredths": 100.0}
_N = r"(-?\d+(?:\.\d+)?)"
_COMMA = r"\s*,\s*"
_PAIRS = rf"\(\s*{_N}{_COMMA}{_N}\s*\)\s*,?\s*\(\s*{_N}{_COMMA}{_N}\s*\)"
_LIST = rf"\[\s*{_N}{_COMMA}{_N}{_COMMA}{_N}{_COMMA}{_N}\s*\]"
_BOX = re.compile(f"{_PAIRS}|{_LIST}")
_BARE = re.compile(r"\[[^.\[\]]*\]")
_HALF = 0.5 - 1e-9
"""Least intersection over union; 0.5 - 0.1 isn't 0.4, and exactly half of a box must count all the same."""


@dataclass(frozen=True)
class Box:
    """Left, top, right and bottom edge as fractions of the picture's width and height."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Area of the box as a share of the picture's; 0 for a box without extent."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 where either box has no area."""
    overlap = Box(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2)).area
    union = a.area + b.area - overlap
    return min(1.0, overlap / union) if overlap > 0 else 0.0


def parse_box(text: str, form: Form = "auto", *, size: PictureSize | None = None) -> Box | None:
    """The first box in a text, or None if there is none.

    Swapped corners are put right; coordinates beyond the picture stay as they are.

    Args:
        text: what a model said.
        form: how the model writes boxes. "auto" decides by the markup, then by the numbers. `bbox_2d` means
            pixels. Numbers up to 1 with a decimal point are fractions. `(…),(…)` and `<box>` mean
            thousandths. A bare list is in hundredths if no number is above 100, in thousandths if none is
            above 1000, and no box otherwise. If the model is known, name its form: "auto" takes a bare list
            in thousandths for hundredths if the box lies in the top left corner.
        size: the picture as the model saw it; needed where the numbers are pixels.

    Raises:
        InputError: the numbers are pixels and no size is given.
    """
    match = _BOX.search(text)
    if match is None:
        return None
    written = [number for number in match.groups() if number is not None]
    form = _recognise(text[: match.start()], match[0], written) if form == "auto" else form
    if form == "auto":
        return None
    width, height = _scale(form, size)
    x1, y1, x2, y2 = (float(n) / side for n, side in zip(written, (width, height) * 2, strict=True))
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def iou_at(threshold: float, form: Form = "hundredths") -> Metric:
    """The metric "share of boxes with IoU ≥ threshold", gold and prediction both written in `form`.

    Args:
        threshold: 0.5 in RefCOCO's evaluation.
        form: one whose scale needs no picture size.
    """

    enough = threshold - 1e-9  # 0.5 - 0.1 isn't 0.4: exactly half of a box must count all the same

    def score(prediction: str, question: Question) -> float:
        said = parse_box(prediction, form)
        golds = (parse_box(answer, form) for answer in question.answers)
        return float(said is not None and any(gold and iou(said, gold) >= enough for gold in golds))

    return score


def accuracy(prediction: str, question: Question) -> float:
    """1 if a reply's box and an accepted one have IoU ≥ 0.5, else 0: a metric.

    Every box is read in the form in which it is written. A bare list without decimal points is on the scale
    of the accepted box where that is a list of hundredths. A box in pixels is one of a picture of the size
    that the question has as `size`.

    Raises:
        InputError: a box is in pixels, and the question has no `size`.
    """
    size: PictureSize | None = getattr(question, "size", None)
    hundredths = all(_written_form(answer) == "hundredths" for answer in question.answers)
    bare = _BARE.match(prediction.strip()) is not None
    said = parse_box(prediction, "hundredths" if hundredths and bare else "auto", size=size)
    golds = (parse_box(answer, size=size) for answer in question.answers)
    return float(said is not None and any(gold and iou(said, gold) >= _HALF for gold in golds))


def _written_form(text: str) -> Form | None:
    """Form in which the first box of a text is written; None where there is no box."""
    match = _BOX.search(text)
    if match is None:
        return None
    return _recognise(text[: match.start()], match[0], [each for each in match.groups() if each is not None])


def _recognise(before: str, box: str, written: list[str]) -> Form:
    """The form by the automatic rule; "auto" where nothing fits."""
    largest = max(abs(float(number)) for number in written)
    if re.search(r"bbox_2d\W*$", before):
        return "qwen2_5_vl"
    if largest <= 1 and any("." in number for number in written):
        return "fraction"
    if box.startswith("("):
        return "qwen2_vl"
    if re.search(r"<box>\W*$", before):
        return "internvl"
    if largest <= 100:
        return "hundredths"
    return "internvl" if largest <= 1000 else "auto"


def _scale(form: Form, size: PictureSize | None) -> tuple[float, float]:
    if form != "qwen2_5_vl":
        return _SCALES[form], _SCALES[form]
    if size is None:
        raise InputError(
            "boxes in pixels need the picture's size",
            where="parse_box(size=…)",
            expected="(width, height) of the picture as the model saw it",
        )
    return float(size[0]), float(size[1])
