"""Geometry: a drawn figure with labels; its angles, lengths, perimeter, area or kind, free or chosen."""

from __future__ import annotations

import random
from dataclasses import dataclass

from optmerge.bench.tasks import DrawnTask, Scene, Split, held_apart
from optmerge.bench.tasks.drawn._drawing import problem_words, problems
from optmerge.bench.tasks.drawn._drawing.problems import Problem
from optmerge.bench.tasks.drawn._drawing.strokes import render
from optmerge.evaluate.scoring.choices import accuracy


@dataclass(frozen=True)
class Drawn:
    """A problem, and the seed of the wordings, options and order of what is asked about it."""

    problem: Problem
    words: int


def plan(rng: random.Random, split: Split) -> Drawn:
    """A problem at random; the same figure in other colours or letters' fonts lies in the same split."""
    problem = held_apart(
        rng, split, problems.make, lambda p: (p.shape, p.numbers, p.texts, p.letters, p.layout)
    )
    return Drawn(problem, rng.getrandbits(32))


def draw(content: Drawn) -> Scene:
    """The picture and everything to ask and say about it."""
    rng, problem = random.Random(content.words), content.problem
    figure = problems.figure(problem)
    return Scene(
        render(figure, problem.style),
        problem_words.questions(rng, problem, figure),
        problem_words.captions(rng, problem, figure),
    )


TASK = DrawnTask(
    name="geometry",
    title="Geometry",
    version=1,
    types=problem_words.TYPES,
    known=problem_words.KNOWN,
    plan=plan,
    draw=draw,
    metrics={"accuracy": accuracy},
    order=2,
    trained=True,
)
