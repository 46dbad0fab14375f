"""Tasks whose pictures and questions are drawn by a program: what such a task declares."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from optmerge.bench.tasks._task import LAST, Split, registered
from optmerge.evaluate.questions import Item, Metric, Question

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 112
"""Width and height of every drawn picture in pixels."""

Content = TypeVar("Content")


@dataclass(frozen=True)
class Scene:
    """One picture and what there is to say about it.

    Args:
        image: RGB, `SIDE`×`SIDE` pixels.
        questions: in the task's own formats; at least one.
        captions: the same visual world in generic form (describe, list with places, transcribe), for the
            base's pre-training: never in one of the task's formats.
    """

    image: Image
    questions: tuple[Question, ...]
    captions: tuple[Question, ...]


@dataclass(frozen=True)
class DrawnTask:
    """A task whose scenes are planned and drawn from random numbers.

    Args:
        name: as on the command line and in records.
        title: as in tables.
        version: changes whenever any scene, question or score does.
        types: every question type, in the order of the tables.
        plan: `(rng, split) -> content`: everything the scene depends on, as a frozen dataclass; cheap.
            Contents of different splits differ by construction (`held_apart`).
        draw: `content -> Scene`; the same content gives the same pixels.
        metrics: name → metric; the first is the one in the tables.
        known: types that a trained line learns before the others, while it learns to answer at all.
        order: place in the tables.
        trained: whether the lines have an expert of it; without one all its questions are held out.
    """

    name: str
    title: str
    version: int
    types: tuple[str, ...]
    plan: Callable[[random.Random, Split], Any]
    draw: Callable[[Any], Scene]
    metrics: Mapping[str, Metric]
    known: tuple[str, ...] = ()
    order: int = LAST
    trained: bool = False

    @property
    def metric(self) -> Metric:
        """The metric that stands in the tables."""
        return next(iter(self.metrics.values()))

    def content(self, split: Split, index: int, seed: int = 0) -> Any:
        """What scene `index` of a split shows; depends on nothing but (version, split, seed, index)."""
        return self.plan(random.Random(f"{self.name}/{self.version}/{split}/{seed}/{index}"), split)

    def scene(self, split: Split, index: int, seed: int = 0) -> Scene:
        """Scene number `index` of a split."""
        return self.draw(self.content(split, index, seed))

    def items(self, split: Split, n: int) -> Iterator[Item]:
        """The first `n` questions of a split, one of each scene; fewer are the beginning of more.

        One question a scene keeps scores independent, as the bootstrap takes them to be. The question is of
        the type that has come up least so far.
        """
        counts: Counter[str] = Counter()
        for index in range(n):
            scene = self.scene(split, index)
            question = min(scene.questions, key=lambda each: counts[each.type])
            counts[question.type] += 1
            yield Item(question, scene.image)


def drawn() -> Mapping[str, DrawnTask]:
    """Every drawn task by name, in the order of the tables."""
    return {name: task for name, task in registered().items() if isinstance(task, DrawnTask)}


def held_apart(
    rng: random.Random,
    split: Split,
    make: Callable[[random.Random], Content],
    key: Callable[[Content], object],
) -> Content:
    """Makes contents until one belongs to the split: its key's hash says which of ten parts it lies in.

    Eight parts train, one validates, one tests; so no two splits share a key, however many scenes are made.

    Args:
        rng: decides everything.
        split: wanted.
        make: one content at random.
        key: what the splits must not share; equal pictures must have equal keys. Its `repr` is hashed.
    """
    while True:
        content = make(rng)
        part = (
            int.from_bytes(hashlib.blake2b(repr(key(content)).encode(), digest_size=4).digest(), "big") % 10
        )
        if split == ("test" if part == 0 else "validation" if part == 1 else "train"):
            return content
