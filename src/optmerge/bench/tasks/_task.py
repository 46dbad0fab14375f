"""What a task is, and the registry of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Literal, Protocol

from optmerge.evaluate.questions import Item, Metric
from optmerge.registry import Registry

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LAST = 100
"""`order` of a task that doesn't say where it stands."""


class Task(Protocol):
    """A capability and the questions that measure it: a `DrawnTask`, or a `DataSet` on disk."""

    @property
    def name(self) -> str:
        """Name on the command line and in records."""

    @property
    def title(self) -> str:
        """Name in tables."""

    @property
    def version(self) -> int:
        """Number that changes whenever any item or score does."""

    @property
    def types(self) -> tuple[str, ...]:
        """Question types in the order of the tables; empty where the data set's rows name them."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Name → metric; the first is the one in the tables."""

    @property
    def metric(self) -> Metric:
        """The metric that stands in the tables."""

    @property
    def order(self) -> int:
        """Place in the tables; tasks of one place come in alphabetical order."""

    @property
    def trained(self) -> bool:
        """Whether the benchmark's own models are trained on it; false for what is held out."""

    def items(self, split: Split, n: int) -> Iterable[Item]:
        """The first `n` items of a split, or all where there are fewer; fewer are the beginning of more.

        Raises:
            InputError: the data set isn't there, can't be read, or has no such split.
        """


def _declared(module: ModuleType) -> Iterable[tuple[str, Task]]:
    """The task that a file or plug-in module declares as its constant `TASK`."""
    task: Task = module.TASK
    return ((task.name, task),)


TASKS: Registry[Task] = Registry(
    "task",
    ("optmerge.bench.tasks.drawn", "optmerge.bench.tasks.real"),
    "optmerge.tasks",
    collect=_declared,
)


def registered() -> Mapping[str, Task]:
    """Every task by name, in the order of the tables.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return dict(sorted(TASKS.all().items(), key=lambda named: (named[1].order, named[0])))


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; with the closest name.
    """
    return TASKS.get(name)
