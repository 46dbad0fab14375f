"""Mathematical questions with and without options (MathVista, MATH-Vision): what a reply says, its score."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING

from optmerge.evaluate.scoring.numbers import agree, boxed
from optmerge.evaluate.scoring.vqa import normalise

if TYPE_CHECKING:
    from optmerge.evaluate.questions import Question

_OPTION = re.compile(r"(?:^|(?<=\s))(?:\(([A-Ja-j])\)|([A-J])[).:](?=\s))")
_CONCLUSION = re.compile(r"\b(?:answer|choice|option)\b(?:\s+is\b|\s*[:=])*\s*", re.IGNORECASE)
_LETTER_FIRST = re.compile(r"[\s$*]*(?:\(\s*([A-Ja-j])\s*\)|([A-J])(?=[).:,*]|\s*$)|([a-j])(?=[).:]|\s*$))")
_MARKED = re.compile(r"\(\s*([A-Ja-j])\s*\)|(?<!\w)([A-J])\)")


def accuracy(prediction: str, question: Question) -> float:
    """1 if a reply is right, else 0: a metric.

    Where the question lists options, the option chosen counts (`read_choice`); otherwise numbers agree as
    `numbers.agree` says, and other answers after VQA normalisation.
    """
    options = read_options(question.text)
    return float(any(_right(prediction, answer, options) for answer in question.answers))


def read_options(question: str) -> dict[str, str]:
    """Capital letter → text of the options in a question, in order; empty if it lists none.

    Options are marked `(A)`, `A)`, `A.` or `A:`, two or more in alphabetical order from A, to the end.
    """
    marks = list(_OPTION.finditer(question))
    letters = "".join((mark[1] or mark[2]).upper() for mark in marks)
    first = letters.rfind("AB")
    if first < 0:
        return {}
    ends = [mark.start() for mark in marks[first + 1 :]] + [len(question)]
    run = zip("ABCDEFGHIJ", letters[first:], marks[first:], ends, strict=False)
    return {
        letter: question[mark.end() : end].strip(" \n,;")
        for letter, _, mark, end in takewhile(lambda option: option[0] == option[1], run)
    }


def read_choice(reply: str, options: Mapping[str, str]) -> str | None:
    r"""The letter of the option a reply chooses, or None.

    In this order: the content of `\boxed{}` instead of the whole; a letter after "the answer is"; a letter at
    the start ("B", "(B)", "B) 40"); an option's text or number instead of its letter; the only letter in
    brackets; the only option whose text occurs.
    """
    reply = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", boxed(reply)).strip()
    ends = [match.end() for match in _CONCLUSION.finditer(reply)]
    for start in (*reversed(ends), 0):
        match = _LETTER_FIRST.match(reply, start)
        letter = "".join(filter(None, match.groups())).upper() if match else ""
        if letter in options:
            return letter
    texts = [letter for letter, text in options.items() if _same(reply, text)]
    marked = {(a or b).upper() for a, b in _MARKED.findall(reply)} & options.keys()
    words = f" {normalise(reply)} "
    named = [letter for letter, text in options.items() if f" {normalise(text)} " in words]
    return next((only for group in (texts, marked, named) for only in group if len(group) == 1), None)


def _right(prediction: str, answer: str, options: Mapping[str, str]) -> bool:
    wanted = read_choice(answer, options) if options else None
    if wanted is not None:
        return read_choice(prediction, options) == wanted
    return _same(prediction, answer)


def _same(reply: str, answer: str) -> bool:
    return normalise(boxed(reply)) == normalise(boxed(answer)) or agree(reply, answer)
