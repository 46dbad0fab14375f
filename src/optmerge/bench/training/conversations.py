"""Training data of the lines: pictures with several turns about each, drawn on demand and always the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optmerge.bench.tasks import DrawnTask, Scene, drawn
from optmerge.bench.tasks.drawn._drawing.relations import relations
from optmerge.bench.tasks.drawn._drawing.sheets import Mark, captions, lookups, sheet
from optmerge.evaluate.questions import Question

if TYPE_CHECKING:
    from PIL import Image

_SCENES = 2**31  # training scenes of a task; so many that a run meets hardly any twice


SHEETS = "sheets"
"""Name of the sheets among a curriculum's shares: pictures of letters and shapes that belong to no task."""


@dataclass(frozen=True)
class Curriculum:
    """What a stage learns from.

    Args:
        shares: task, or `SHEETS` → its share of the pictures, in any unit. The drawn rows depend on the order
            of the names.
        types: task → the question types that are asked about its pictures.
        questions: chance that a question of these types is among the turns that a picture offers.
        captions: most captions that a picture offers.
        lookups: most questions about one mark that a sheet offers.
        relations: most questions about the places of several marks that a sheet offers.
        marks: most marks on a sheet; sheets with more are passed over.
        turns: most turns about a picture, drawn from what the picture offers.
    """

    shares: Mapping[str, float]
    types: Mapping[str, tuple[str, ...]]
    questions: float = 1.0
    captions: int = 0
    lookups: int = 0
    relations: int = 0
    marks: int = 24
    turns: int = 6


@dataclass(frozen=True)
class Conversation:
    """A picture and the turns about it.

    Args:
        task: name of the picture's task, or `SHEETS`.
        image: the picture.
        turns: questions with their answers; no turn refers to another.
    """

    task: str
    image: Image.Image
    turns: tuple[Question, ...]


def trained_tasks() -> Mapping[str, DrawnTask]:
    """Name → task, of the tasks that models are trained on; the others are held out."""
    return {name: task for name, task in drawn().items() if task.trained}


def reading(questions: float) -> Curriculum:
    """Captions of every task's pictures and of sheets, and few questions of the types known early.

    Args:
        questions: chance that a picture offers a question.
    """
    return _of_known_types(Curriculum({SHEETS: 2.0}, {}, questions, captions=6))


def finding() -> Curriculum:
    """Questions about one mark of a sheet."""
    return Curriculum({SHEETS: 1.0}, {}, lookups=10, marks=9, turns=10)


def relating() -> Curriculum:
    """Questions about the places and numbers of a sheet's marks, and about single marks."""
    return Curriculum({SHEETS: 1.0}, {}, lookups=4, relations=8, marks=9, turns=10)


def answering(questions: float) -> Curriculum:
    """Questions of the types known early and captions of every task's pictures, and sheets with questions.

    Args:
        questions: chance that a picture offers a question.
    """
    return _of_known_types(
        Curriculum({SHEETS: 2.0}, {}, questions, captions=2, lookups=3, relations=4, marks=9, turns=8)
    )


def everything(
    shares: Mapping[str, float], *, without: Mapping[str, Sequence[str]], captions: int = 1
) -> Curriculum:
    """Questions of nearly every type, captions, and sheets: experts refine what a base half knows.

    Args:
        shares: task, or `SHEETS` → its share of the pictures.
        without: task → question types that are left to its expert.
        captions: most captions that a picture offers.
    """
    types = {
        name: tuple(kind for kind in kinds if kind not in without.get(name, ()))
        for name, kinds in mixture().types.items()
    }
    return Curriculum(shares, types, captions=captions, lookups=3, relations=4, marks=9, turns=8)


def expert(name: str) -> Curriculum:
    """The questions of one task."""
    return Curriculum({name: 1.0}, {name: trained_tasks()[name].types})


def mixture() -> Curriculum:
    """The questions of every task, in equal shares."""
    tasks = trained_tasks()
    return Curriculum(dict.fromkeys(tasks, 1.0), {name: task.types for name, task in tasks.items()})


def _of_known_types(curriculum: Curriculum) -> Curriculum:
    """The curriculum with equal shares of every task's pictures and their types known early."""
    tasks = trained_tasks()
    known = {name: task.known for name, task in tasks.items()}
    return replace(curriculum, shares={**dict.fromkeys(tasks, 1.0), **curriculum.shares}, types=known)


def conversation(curriculum: Curriculum, seed: int, row: int) -> Conversation:
    """Row number `row` of a curriculum; depends on the arguments and the tasks' versions alone."""
    rng = random.Random(f"{seed}/{row}")
    tasks = trained_tasks()
    while True:
        (name,) = rng.choices(tuple(curriculum.shares), tuple(curriculum.shares.values()))
        if name == SHEETS:
            image, marks = sheet(rng)
            few = len(marks) <= curriculum.marks
            turns = _drawn(_about(marks, curriculum, rng), curriculum, rng) if few else ()
            if turns:
                return Conversation(name, image, turns)
            continue
        scene = tasks[name].scene("train", rng.randrange(_SCENES))
        turns = _drawn(_offered(scene, curriculum, curriculum.types[name], rng), curriculum, rng)
        if turns:  # a scene may have no question of these types
            return Conversation(name, scene.image, turns)


def _about(marks: Sequence[Mark], curriculum: Curriculum, rng: random.Random) -> list[Question]:
    """The turns that a sheet offers."""
    described = captions(rng, marks)
    few = rng.sample(described, min(curriculum.captions, len(described)))
    return [*few, *lookups(rng, marks, curriculum.lookups), *relations(rng, marks, curriculum.relations)]


def _offered(
    scene: Scene, curriculum: Curriculum, types: Sequence[str], rng: random.Random
) -> list[Question]:
    """The turns that a task's picture offers."""
    asked = [each for each in scene.questions if each.type in types and rng.random() < curriculum.questions]
    return asked + rng.sample(scene.captions, min(curriculum.captions, len(scene.captions)))


def _drawn(offered: list[Question], curriculum: Curriculum, rng: random.Random) -> tuple[Question, ...]:
    """The turns about a picture, in random order."""
    return tuple(rng.sample(offered, min(curriculum.turns, len(offered))))
