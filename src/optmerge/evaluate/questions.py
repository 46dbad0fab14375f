"""What a model is asked, and what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """What is asked about a picture, and what is right.

    Args:
        text: lower-case prose; capital letters only where they quote what is printed in the picture.
        answers: every accepted answer; training teaches the first.
        type: the question type within its task.
    """

    text: str
    answers: tuple[str, ...]
    type: str


Metric = Callable[[str, Question], float]
"""(what a model said, what it was asked) → a score in [0, 1]."""
