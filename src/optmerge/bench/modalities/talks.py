"""What language models learn from: what is shown of a clip, what in words, and questions about it.

The base is told everything in words, some of the three parts in any order, so it learns to put several
sources together without ever seeing or hearing. An expert has one signal of its own; the other two parts come
in words, or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.asking import templates
from optmerge.bench.modalities.describe import caption, closeups, described
from optmerge.bench.modalities.world import MODALITIES, Content, Modality
from optmerge.evaluate.questions import Question
from optmerge.omni.prompts import USUAL


@dataclass(frozen=True)
class Diet:
    """How talks are drawn.

    Args:
        own: the modality that is shown, never described; None for the base.
        alone: chance that an expert gets nothing but its own.
        most: how many of the three parts the base is told, at most.
        captions: chance of being asked for a description.
        closeups: how many questions for one shape are asked, of each part that may be described.
        guesses: chance of a talk whose questions may need what isn't there: so every model learns the form
            of all answers, and how to guess.
    """

    own: Modality | None = None
    alone: float = 0.5
    most: int = 3
    captions: float = 0.25
    closeups: int = 2
    guesses: float = 0.08


@dataclass(frozen=True)
class Talk:
    """A clip that is talked about.

    Args:
        content: of the clip.
        parts: what is given, in order: placeholders and descriptions.
        shown: the modality whose placeholder is among them, if any.
        turns: each asked as if it were the first.
    """

    content: Content
    parts: tuple[str, ...]
    shown: Modality | None
    turns: tuple[Question, ...]


def talk(diet: Diet, seed: int, row: int) -> Talk:
    """Talk number `row`: about another clip each."""
    rng = random.Random(f"talk/{diet}/{seed}/{row}")
    content = clips.content("train", row, seed)
    given = _given(rng, diet)
    return Talk(content, parts(content, given, diet.own, rng), diet.own, _turns(rng, content, diet, given))


def parts(
    content: Content, given: Sequence[Modality], own: Modality | None, rng: random.Random | None = None
) -> tuple[str, ...]:
    """What is given of a clip: the placeholder of what is shown, descriptions of the rest.

    Args:
        content: of the clip.
        given: in order.
        own: what is shown.
        rng: for descriptions in any order.
    """
    return tuple(USUAL[each] if each == own else described(content, each, rng) for each in given)


def _given(rng: random.Random, diet: Diet) -> list[Modality]:
    """In any order; an expert's own is always among them."""
    others = [each for each in MODALITIES if each != diet.own]
    most = min(diet.most, len(others))
    if diet.own is not None and rng.random() < diet.alone:
        others = []
    elif rng.random() < diet.guesses:
        others = rng.sample(others, rng.randint(0, most))
    else:
        others = rng.sample(others, rng.choices(range(1, most + 1), range(1, most + 1))[0])
    own = [] if diet.own is None else [diet.own]
    return rng.sample(own + others, len(own + others))


def _turns(
    rng: random.Random, content: Content, diet: Diet, given: Sequence[Modality]
) -> tuple[Question, ...]:
    """A caption, perhaps, close-ups, and a question of each template that can be answered, in any order."""
    told: list[Question] = []
    describable = [each for each in given if diet.own in (None, each)]
    if describable and rng.random() < diet.captions:
        told.append(caption(content, rng.choice(describable)))
    for part in describable:
        found = closeups(content, part, rng)
        told += rng.sample(found, min(diet.closeups, len(found)))
    guessing = not given or rng.random() < diet.guesses
    fit = [
        each
        for each in templates().values()
        if guessing or (set(each.needs) <= set(given) and diet.own in (None, *each.needs))
    ]
    for each in fit:
        if (question := each.draw(rng, content)) is not None:
            told.append(question.worked)
    return tuple(rng.sample(told, len(told)))


class Talks(Dataset[Talk]):
    """The first `count` talks of a diet, each made when it is asked for."""

    def __init__(self, diet: Diet, count: int, *, seed: int) -> None:
        self.diet, self.count, self.seed = diet, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Talk:
        return talk(self.diet, self.seed, row)
