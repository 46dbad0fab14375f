"""What a line of models is, and the registry of lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from optmerge.bench import records
from optmerge.bench.tasks import Split, Task, drawn
from optmerge.evaluate.questions import Question
from optmerge.registry import Registry


@dataclass(frozen=True)
class Members:
    """The models of a line and one of its expert sets.

    Args:
        line: name of the line.
        expert_set: number of the set.
        base: folder.
        experts: task → folder of a checkpoint or an adapter, in the order of the tables.
        mixture: folder of the model trained on every task; None where there is none.
        own_mixture: whether the mixture belongs to the expert set, rather than to the line.
    """

    line: str
    expert_set: int
    base: Path
    experts: Mapping[str, Path]
    mixture: Path | None
    own_mixture: bool


@dataclass(frozen=True)
class Answers:
    """What a model answered to a task's questions.

    Args:
        questions: as they were asked.
        texts: the answer to each question.
    """

    questions: tuple[Question, ...]
    texts: tuple[str, ...]


class LineModel(Protocol):
    """A model of a line, loaded where it answers."""

    def answers(self, tasks: Sequence[Task], split: Split, n: int) -> list[Answers]:
        """Greedy answers to the first `n` items of a split of each task, in the order of the tasks.

        All tasks are given in one call, since more of their prompts have one length, and a model may keep
        what it has made of a task's pictures for the next model.
        """


class Load(Protocol):
    """Loads a model of a line."""

    def __call__(self, folder: Path, *, base: Path, device: str, dtype: str) -> LineModel:
        """The model of a folder.

        Args:
            folder: of a checkpoint, or of an adapter.
            base: folder of the line's base, onto which an adapter is put.
            device: of torch, where the model answers.
            dtype: name of a torch dtype, in which the model answers.

        Raises:
            CheckpointError: there is no model of this line in the folder.
        """


@dataclass(frozen=True)
class Line:
    """A base, experts fine-tuned from it, and how such models are loaded and asked.

    Args:
        name: as on the command line, in records and tables.
        sets: folder of all models (`--zoo`) → numbers of the expert sets; none where the line isn't there.
        members: (folder of all models, expert set) → the models. Raises a `CheckpointError` that names what
            is missing and how to get it.
        load: loads a trained or merged model.
        tasks: gives name → task of all that the models are asked; by default every drawn task.
        dtype: name of the torch dtype in which models answer.
    """

    name: str
    sets: Callable[[Path], Sequence[int]]
    members: Callable[[Path, int], Members]
    load: Load
    tasks: Callable[[], Mapping[str, Task]] = drawn
    dtype: str = "float32"


def weights(found: Members) -> dict[str, str]:
    """Role → SHA-256 of the weights: base, every expert by its task, mixture if there is one."""
    folders = {"base": found.base, **found.experts} | ({"mixture": found.mixture} if found.mixture else {})
    return {role: records.weights_hash(folder) for role, folder in folders.items()}


def _declared(module: ModuleType) -> Iterable[tuple[str, Line]]:
    """The line that a file or plug-in module declares as its constant `LINE`."""
    line: Line = module.LINE
    return ((line.name, line),)


LINES: Registry[Line] = Registry("line", "optmerge.bench.lines", "optmerge.lines", collect=_declared)


def registered() -> Mapping[str, Line]:
    """Every line by name, in alphabetical order.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return LINES.all()


def get(name: str) -> Line:
    """The line of that name.

    Raises:
        InputError: there is none; with the closest name.
    """
    return LINES.get(name)
