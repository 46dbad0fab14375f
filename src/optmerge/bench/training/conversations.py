"""What the lines learn from: pictures with several turns about each, made when asked for, always the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optmerge.bench.tasks._registry import Scene, Task, registered
from optmerge.bench.tasks.drawn._drawing.relations import relations
from optmerge.bench.tasks.drawn._drawing.sheets import Mark, captions, lookups, sheet
from optmerge.evaluate.questions import Question

if TYPE_CHECKING:
    from PIL import Image

_SCENES = 2**31  # so many training scenes a task has; a run meets hardly any twice


SHEETS = "sheets"
"""Among the shares of a diet: pictures that belong to no task."""


@dataclass(frozen=True)
class Diet:
    """What a model learns from.

    Args:
        shares: task, or `SHEETS`, → its share of the pictures.
        types: task → the question types asked about its pictures.
        questions: chance that a question of these types is among the turns that a picture offers.
        captions: how many of its captions are, at most.
        lookups: how many lookups a sheet offers, at most.
        relations: how many questions of how its marks lie to each other, at most.
        marks: how many marks are on a sheet, at most.
        turns: most turns about a picture, drawn from what it offers.
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
    """One picture and what is said about it; no turn may lean on another."""

    task: str
    image: Image.Image
    turns: tuple[Question, ...]


def trained() -> Mapping[str, Task]:
    """The tasks that models are trained on; the others are held out."""
    return {name: task for name, task in registered().items() if task.trained}


def reading(questions: float) -> Diet:
    """Captions of every task and of sheets; few questions, of the types a base knows."""
    return _for_a_base(Diet({SHEETS: 2.0}, {}, questions, captions=6))


def finding() -> Diet:
    """Lookups on sheets, and nothing else."""
    return Diet({SHEETS: 1.0}, {}, lookups=10, marks=9, turns=10)


def relating() -> Diet:
    """Questions of how a sheet's marks lie to each other, sums, and lookups."""
    return Diet({SHEETS: 1.0}, {}, lookups=4, relations=8, marks=9, turns=10)


def answering(questions: float) -> Diet:
    """Questions of the types known early, about every task's pictures; captions; sheets with lookups."""
    return _for_a_base(
        Diet({SHEETS: 2.0}, {}, questions, captions=2, lookups=3, relations=4, marks=9, turns=8)
    )


def base(shares: Mapping[str, float]) -> Diet:
    """A little of everything: questions, captions, sheets. Experts refine what it half knows.

    VQA is learnt soonest, and a base that can compare and relate shapes would leave its expert nothing.
    """
    diet = mixture()
    vqa = tuple(kind for kind in diet.types["vqa"] if kind not in ("relation", "comparison"))
    return replace(
        diet,
        shares=shares,
        types={**diet.types, "vqa": vqa},
        captions=1,
        lookups=3,
        relations=4,
        marks=9,
        turns=8,
    )


def _for_a_base(diet: Diet) -> Diet:
    """The diet with every task's pictures and what a base may know of them."""
    tasks = trained()
    known = {name: task.known for name, task in tasks.items()}
    return replace(diet, shares={**dict.fromkeys(tasks, 1.0), **diet.shares}, types=known)


def expert(name: str) -> Diet:
    """The questions of one task, and nothing else."""
    return Diet({name: 1.0}, {name: trained()[name].types})


def mixture() -> Diet:
    """The questions of every task."""
    tasks = trained()
    return Diet(dict.fromkeys(tasks, 1.0), {name: task.types for name, task in tasks.items()})


def conversation(diet: Diet, seed: int, row: int) -> Conversation:
    """Row number `row` of a diet; depends on nothing but the arguments and the tasks' versions."""
    rng = random.Random(f"{seed}/{row}")
    tasks = trained()
    while True:
        (name,) = rng.choices(tuple(diet.shares), tuple(diet.shares.values()))
        if name == SHEETS:
            image, marks = sheet(rng)
            turns = _drawn(_about(marks, diet, rng), diet, rng) if len(marks) <= diet.marks else ()
            if turns:
                return Conversation(name, image, turns)
            continue
        scene = tasks[name].scene("train", rng.randrange(_SCENES))
        turns = _drawn(_offered(scene, diet, diet.types[name], rng), diet, rng)
        if turns:  # a scene may have no question of these types
            return Conversation(name, scene.image, turns)


def _about(marks: Sequence[Mark], diet: Diet, rng: random.Random) -> list[Question]:
    """What a sheet offers."""
    told = captions(rng, marks)
    few = rng.sample(told, min(diet.captions, len(told)))
    return [*few, *lookups(rng, marks, diet.lookups), *relations(rng, marks, diet.relations)]


def _offered(scene: Scene, diet: Diet, types: Sequence[str], rng: random.Random) -> list[Question]:
    """What a task's picture offers."""
    asked = [each for each in scene.questions if each.type in types and rng.random() < diet.questions]
    return asked + rng.sample(scene.captions, min(diet.captions, len(scene.captions)))


def _drawn(offered: list[Question], diet: Diet, rng: random.Random) -> tuple[Question, ...]:
    """The turns about a picture, in random order."""
    return tuple(rng.sample(offered, min(diet.turns, len(offered))))
