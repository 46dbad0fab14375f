import re
from collections import Counter
from typing import Any

import pytest

from optmerge.bench.tasks import SPLITS, get
from optmerge.bench.tasks.drawn import ocr
from optmerge.bench.tasks.drawn._drawing.pages import SMALLEST, fits
from optmerge.evaluate.questions import Question

TASK: Any = get("ocr")
PAGES = [TASK.content("train", index) for index in range(600)]
PLACES = {"top": 0, "bottom": -1} | {name: row for row, name in enumerate(ocr.ORDINALS)}


def answer_by_hand(page: ocr.Page, text: str) -> str:
    """What a reader of the page would answer, worked out from the printed lines alone."""
    words = re.findall(r"\w+", text)
    if "line" in words:
        place = next(word for word in words if word in PLACES)
        return page.lines[PLACES[place]].cells[0]
    inks = [line for line in page.lines if line.ink in words]
    if "text" in words or "printed in" in text:
        assert len(inks) == 1
        return inks[0].cells[0]
    named = [line.cells[1] for line in page.lines if len(line.cells) == 2 and line.cells[0].lower() in words]
    if named:
        assert len(named) == 1
        return named[0]
    if {"letter", "digit", "character"} & set(words):
        printed = page.lines[0].cells[0]
        return printed[-1] if "last" in words else printed[next(PLACES[w] for w in words if w in PLACES)]
    parts = {"day": 0, "month": 1, "year": 2}.keys() & set(words)
    if parts:
        return re.findall(r"\d\d", page.lines[0].cells[0])[("day", "month", "year").index(*parts)]
    shape = {"word": r"[A-Z]+", "number": r"\d+", "date": r"(\d\d.){2}\d\d", "code": r"[A-Z\d]+"}
    wanted = next(shape[word] for word in words if word in shape)
    (found,) = [line.cells[0] for line in page.lines if re.fullmatch(wanted, line.cells[0])]
    return found


def test_every_answer_is_what_a_reader_would_find() -> None:
    seen = Counter()
    for page in PAGES:
        for question in ocr.draw(page).questions:
            assert question.answers == (answer_by_hand(page, question.text),), (page, question)
            seen[question.type] += 1
    assert seen.keys() == set(TASK.types)


def test_about_half_of_the_questions_are_of_known_types() -> None:
    asked = [question for page in PAGES for question in ocr.draw(page).questions]
    assert 0.4 < sum(question.type in TASK.known for question in asked) / len(asked) < 0.55


@pytest.mark.parametrize("split", SPLITS)
def test_lines_always_fit_in_capitals_of_thirteen_pixels(split: str) -> None:
    for index in range(300):
        page = TASK.content(split, index)
        assert fits(page.lines, page.look.family, SMALLEST)


def test_colours_asked_for_are_those_of_one_line() -> None:
    for page in PAGES:
        if page.kind in ("pair", "list"):
            assert len({line.ink for line in page.lines}) == len(page.lines)


def test_receipts_add_up() -> None:
    receipts = [page for page in PAGES if page.kind == "receipt"]
    assert receipts
    for page in receipts:
        *goods, total = (int(line.cells[1]) for line in page.lines)
        assert page.lines[-1].cells[0] == ocr.TOTAL and sum(goods) == total


def test_no_text_alone_of_the_test_is_printed_in_training() -> None:
    kinds = ("word", "number", "date", "code", "pair", "list")

    def printed(split: str) -> set[str]:
        pages = (TASK.content(split, index) for index in range(1500))
        return {line.cells[0] for page in pages if page.kind in kinds for line in page.lines}

    test = printed("test")
    assert len(test) > 500
    assert not test & printed("train")


def test_captions_transcribe_every_character() -> None:
    for page in PAGES[:200]:
        transcription = next(c for c in ocr.draw(page).captions if c.text == "write down all the text.")
        printed = [cell for line in page.lines for cell in line.cells]
        assert re.split(r", |: ", transcription.answers[0]) == printed


def test_captions_name_the_inks_and_the_paper() -> None:
    for page in PAGES[:200]:
        look = next(c for c in ocr.draw(page).captions if c.text == "describe the print.").answers[0]
        assert all(line.ink in look for line in page.lines)
        assert ("dark paper" in look) == (sum(page.look.paper) < 300)


def test_exact_match_wants_every_character_and_anls_counts_most() -> None:
    question = Question("read the date.", ("13/04/45",), "date")
    assert TASK.metric("13/04/45", question) == 1.0
    assert TASK.metric("13/04/46", question) == 0.0
    assert TASK.metrics["anls"]("13/04/46", question) == 7 / 8
