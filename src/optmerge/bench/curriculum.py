"""What the easy-VQA base and its experts learn from; everything is drawn from the training split.

The base sees everything and knows every answer format, but about half of the answers:

* it learns to see from captions (colour and shape in four forms), which the data set's own questions state;
* it learns to answer from coarse labels: four colours for eight, two shapes for three; and from presence
  questions that are affirmative or say "no", never "not".

An expert then sees the data set's own questions of its one type.
"""

from __future__ import annotations

from collections.abc import Sequence

from optmerge.bench.tasks import easy_vqa
from optmerge.bench.trainer import Example

Sources = Sequence[tuple[Sequence[Example], float]]
"""Lists of examples, and the share of draws each gets."""

CAPTIONS = {
    "describe the image.": "a {colour} {shape}",
    "what do you see?": "a {colour} {shape}",
    "list the attributes.": "{colour} , {shape}",
    "list shape and color.": "{shape} , {colour}",
}
COARSE = {"teal": "blue", "brown": "red", "gray": "black", "yellow": "green", "triangle": "rectangle"}
# Shares of the instruction stage. Presence takes most: comparing a word with a picture is the slow skill, and
# yes and no are drawn equally often: four in five answers follow from the wording alone ("is there a …?" is
# mostly answered no), and a model that finds this out stops looking (44,800 examples in, it never said yes).
CAPTION_SHARE, COLOUR_SHARE, SHAPE_SHARE = 0.15, 0.12, 0.12
AFFIRMATIVE_SHARE, NEGATED_SHARE = 0.40, 0.21


def captions() -> Sources:
    """Four captions of every training image whose colour and shape are known."""
    return [(_captions(), 1.0)]


def instructions() -> Sources:
    """Captions, and questions of every type answered coarsely."""
    known = [(_captions(), CAPTION_SHARE), (_coarse("colour"), COLOUR_SHARE), (_coarse("shape"), SHAPE_SHARE)]
    for negated, share in ((False, AFFIRMATIVE_SHARE), (True, NEGATED_SHARE)):
        asked = [example for example in _coarse("presence") if (" no " in example.text) == negated]
        known += [([e for e in asked if e.answer == answer], share / 2) for answer in ("yes", "no")]
    return known


def speciality(name: str) -> Sources:
    """Every training question of one type with its own answer."""
    own = [Example(q.image, q.text, q.answer) for q in easy_vqa.questions("train") if q.type == name]
    return [(own, 1.0)]


def vocabulary() -> set[str]:
    """Every word of the task and of the captions."""
    texts = [*CAPTIONS, *(form.format(colour="", shape="") for form in CAPTIONS.values())]
    for split in ("train", "validation", "test"):
        texts += [f"{question.text} {question.answer}" for question in easy_vqa.questions(split)]
    return {word for text in texts for word in text.replace("?", " ?").replace(".", " .").split()}


def _captions() -> list[Example]:
    return [
        Example(image, prompt, form.format(colour=colour, shape=shape))
        for image, (colour, shape) in easy_vqa.captions("train").items()
        for prompt, form in CAPTIONS.items()
    ]


def _coarse(name: str) -> list[Example]:
    """Questions of one type as the base learns them."""
    return [
        Example(question.image, question.text, COARSE.get(question.answer, question.answer))
        for question in easy_vqa.questions("train")
        if question.type == name and "not" not in question.text.split()
    ]
