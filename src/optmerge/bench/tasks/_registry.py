"""The registry of the benchmark's tasks: what a task is, and how its pictures and questions are had.

A task is a file under `bench/tasks/` with one function that plans a scene, and one that draws it, made known
by `register(Task(…))`. Everything under `bench/tasks/` and every `optmerge.tasks` entry point is found
without a list to keep.
"""

from __future__ import annotations

import hashlib
import pkgutil
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from optmerge.errors import InputError, did_you_mean
from optmerge.evaluate.questions import Metric, Question

if TYPE_CHECKING:
    from PIL import Image

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SIDE = 112
"""Width and height of every picture in pixels."""

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

    image: Image.Image
    questions: tuple[Question, ...]
    captions: tuple[Question, ...]


@dataclass(frozen=True)
class Task:
    """A capability.

    Args:
        name: as on the command line.
        title: as in tables.
        version: changes whenever any scene, question or score does.
        types: every question type.
        known: types that a line learns before the others, while it learns to answer at all.
        plan: `(rng, split) -> content`: everything the scene depends on, as a frozen dataclass; cheap.
            Contents of different splits differ by construction (`held_apart`).
        draw: `content -> Scene`; the same content gives the same pixels.
        metrics: name → metric; the first is the one in the tables.
        trained: false for questions that are held out from all training.
    """

    name: str
    title: str
    version: int
    types: tuple[str, ...]
    known: tuple[str, ...]
    plan: Callable[[random.Random, Split], Any]
    draw: Callable[[Any], Scene]
    metrics: Mapping[str, Metric]
    trained: bool = True

    @property
    def metric(self) -> Metric:
        """The metric in the tables."""
        return next(iter(self.metrics.values()))

    def content(self, split: Split, index: int, seed: int = 0) -> Any:
        """What scene `index` of a split shows; depends on nothing but (version, split, seed, index)."""
        return self.plan(random.Random(f"{self.name}/{self.version}/{split}/{seed}/{index}"), split)

    def scene(self, split: Split, index: int, seed: int = 0) -> Scene:
        """Scene number `index` of a split."""
        return self.draw(self.content(split, index, seed))


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


_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Makes a task known under its name; one that replaces another's silently is refused."""
    known = _TASKS.get(task.name)
    if known is not None and known.plan.__module__ != task.plan.__module__:
        raise InputError(
            f"there already is a task {task.name!r}",
            where=f"module {task.plan.__module__}",
            got=f"one from {known.plan.__module__}",
            hint="rename one of them",
        )
    _TASKS[task.name] = task
    return task


@cache
def _load_all() -> None:
    package = import_module("optmerge.bench.tasks.drawn")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            import_module(f"optmerge.bench.tasks.drawn.{module.name}")
    for plugin in entry_points(group="optmerge.tasks"):
        plugin.load()


def registered() -> Mapping[str, Task]:
    """Every task by name: in the order of the tables, plug-ins last."""
    _load_all()
    first = ("vqa", "geometry", "chart", "ocr", "grounding", "composition")
    return {name: _TASKS[name] for name in (*first, *sorted(_TASKS.keys() - set(first))) if name in _TASKS}


def get(name: str) -> Task:
    """The task of that name; raises `InputError` with the closest known name otherwise."""
    tasks = registered()
    if name not in tasks:
        raise InputError(f"unknown task {name!r}", where="task", hint=did_you_mean(name, tasks))
    return tasks[name]
