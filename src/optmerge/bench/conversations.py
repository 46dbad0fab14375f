"""What the lines learn from: pictures with several turns about each, made when asked for, always the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optmerge.bench.drawing.sheets import captions, sheet
from optmerge.bench.tasks.registry import Question, Scene, Task, registered

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
        captions: whether all of its captions are.
        turns: most turns about a picture, drawn from what it offers.
    """

    shares: Mapping[str, float]
    types: Mapping[str, tuple[str, ...]]
    questions: float = 1.0
    captions: bool = False
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


def base(questions: float) -> Diet:
    """Of every task the captions, and questions of the types a base knows; and sheets."""
    tasks = trained()
    known = {name: task.known for name, task in tasks.items()}
    shares = dict.fromkeys(tasks, 1.0) | {SHEETS: 2.0}
    return Diet(shares, known, questions, captions=True)


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
            return Conversation(name, image, captions(rng, marks)[: diet.turns])
        scene = tasks[name].scene("train", rng.randrange(_SCENES))
        turns = _turns(scene, diet, diet.types[name], rng)
        if turns:  # a scene may have no question of these types
            return Conversation(name, scene.image, turns)


def _turns(scene: Scene, diet: Diet, types: Sequence[str], rng: random.Random) -> tuple[Question, ...]:
    """What the picture offers, in random order."""
    offered = [asked for asked in scene.questions if asked.type in types and rng.random() < diet.questions]
    if diet.captions:
        offered += scene.captions
    rng.shuffle(offered)
    return tuple(offered[: diet.turns])
