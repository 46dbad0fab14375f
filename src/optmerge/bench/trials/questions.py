"""The questions of a split: one of each scene, every type about as often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from optmerge.bench.lines.tiny.asking import Asked
from optmerge.bench.tasks._registry import Split, Task

SEED = 0
"""Of the scenes that are asked about."""


def asked(task: Task, split: Split, n: int) -> Iterator[Asked]:
    """The first `n` questions of a split; fewer are the beginning of more.

    One question a scene, so that scores are independent, as the bootstrap takes them to be: of the type that
    has come up least so far.
    """
    counts: Counter[str] = Counter()
    for index in range(n):
        scene = task.scene(split, index, SEED)
        question = min(scene.questions, key=lambda each: counts[each.type])
        counts[question.type] += 1
        yield Asked(scene.image, question)
