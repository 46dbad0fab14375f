"""The pocket line: models of one's own in `ZOO/pocket`, asked by transformers' own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optmerge.bench.lines import Answers, Line, expert_sets, members
from optmerge.bench.tasks import Split, Task, get
from optmerge.evaluate import chat
from optmerge.evaluate.answering import ANSWER_TOKENS
from optmerge.evaluate.questions import Item

NAME, TASKS = "pocket", ("chart", "ocr")


@dataclass(frozen=True)
class ChatModel:
    """A model that is asked one question after the other.

    Args:
        chat: the model and its processor.
    """

    chat: chat.Chat

    def answers(self, tasks: Sequence[Task], split: Split, n: int) -> list[Answers]:
        """Greedy answers to the first `n` items of a split of each task."""
        return [self._answers(list(task.items(split, n))) for task in tasks]

    def _answers(self, items: Sequence[Item]) -> Answers:
        pictures = [[item.image] if item.image else [] for item in items]
        texts = [
            self.chat.ask(item.question.text, shown, longest=ANSWER_TOKENS)
            for item, shown in zip(items, pictures, strict=True)
        ]
        return Answers(tuple(item.question for item in items), tuple(texts))


def load(folder: Path, *, base: Path, device: str, dtype: str) -> ChatModel:
    """The model of a folder, in the precision in which it was saved; an adapter names its base itself."""
    return ChatModel(chat.load(folder, device=device))


def asked() -> Mapping[str, Task]:
    """The tasks that every model of the line is asked."""
    return {name: get(name) for name in TASKS}


LINE = Line(
    name=NAME,
    sets=partial(expert_sets, NAME),
    members=partial(members, NAME),
    load=load,
    tasks=asked,
    dtype="bfloat16",
)
