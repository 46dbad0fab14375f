"""Training data of the language models: signals and descriptions of a clip, and questions about the clip.

A clip has three parts: film, sound and picture. The base gets descriptions of one to three parts in any
order, so it learns to combine several sources without seeing or hearing. An expert gets the signal of one
part, and descriptions of the others or nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.describe import caption, closeups, described
from optmerge.bench.modalities.templates import templates
from optmerge.bench.modalities.world import MODALITIES, Content, Modality
from optmerge.evaluate.questions import Question
from optmerge.omni.prompts import USUAL


@dataclass(frozen=True)
class TalkCurriculum:
    """How talks are drawn.

    Args:
        own: modality whose signal is given, so that it is never described; None for the base.
        alone: chance that an expert gets nothing but its own signal.
        most: most of the three parts that are described.
        captions: chance that a talk asks for a description.
        closeups: questions about single shapes, for each part that may be described.
        guesses: chance that a talk's questions may need parts that are not given. Every model learns the
            forms of all answers from these talks, and how to guess.
    """

    own: Modality | None = None
    alone: float = 0.5
    most: int = 3
    captions: float = 0.25
    closeups: int = 2
    guesses: float = 0.08

    @property
    def key(self) -> str:
        """Text that seeds the draws; the shipped models learnt from draws with the word "Diet" in the key."""
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"Diet({fields})"


@dataclass(frozen=True)
class Talk:
    """A clip, what is given of the clip, and the turns about it.

    Args:
        content: content of the clip.
        parts: what is given, in order: placeholders and descriptions.
        shown: modality whose placeholder is among the parts, if any.
        turns: questions with their answers, each asked as if it were the first.
    """

    content: Content
    parts: tuple[str, ...]
    shown: Modality | None
    turns: tuple[Question, ...]


def talk(curriculum: TalkCurriculum, seed: int, row: int) -> Talk:
    """Talk number `row` of a curriculum, about training clip number `row`."""
    rng = random.Random(f"talk/{curriculum.key}/{seed}/{row}")
    content = clips.content("train", row, seed)
    given = _given(rng, curriculum)
    own = curriculum.own
    return Talk(content, parts(content, given, own, rng), own, _turns(rng, content, curriculum, given))


def parts(
    content: Content, given: Sequence[Modality], own: Modality | None, rng: random.Random | None = None
) -> tuple[str, ...]:
    """What is given of a clip: a placeholder for its signal, descriptions of the other parts.

    Args:
        content: content of the clip.
        given: modalities of the parts that are given, in order.
        own: modality whose signal is given; None gives descriptions alone.
        rng: source of the order within a description; row by row without one.
    """
    return tuple(USUAL[each] if each == own else described(content, each, rng) for each in given)


def _given(rng: random.Random, curriculum: TalkCurriculum) -> list[Modality]:
    """The parts that are given, in any order; an expert's own is always among them."""
    others = [each for each in MODALITIES if each != curriculum.own]
    most = min(curriculum.most, len(others))
    if curriculum.own is not None and rng.random() < curriculum.alone:
        others = []
    elif rng.random() < curriculum.guesses:
        others = rng.sample(others, rng.randint(0, most))
    else:
        others = rng.sample(others, rng.choices(range(1, most + 1), range(1, most + 1))[0])
    own = [] if curriculum.own is None else [curriculum.own]
    return rng.sample(own + others, len(own + others))


def _turns(
    rng: random.Random, content: Content, curriculum: TalkCurriculum, given: Sequence[Modality]
) -> tuple[Question, ...]:
    """A caption by chance, close-ups, and a question of each template that can be answered, in any order."""
    found: list[Question] = []
    describable = [each for each in given if curriculum.own in (None, each)]
    if describable and rng.random() < curriculum.captions:
        found.append(caption(content, rng.choice(describable)))
    for part in describable:
        near = closeups(content, part, rng)
        found += rng.sample(near, min(curriculum.closeups, len(near)))
    guessing = not given or rng.random() < curriculum.guesses
    fit = [
        each
        for each in templates().values()
        if guessing or (set(each.needs) <= set(given) and curriculum.own in (None, *each.needs))
    ]
    for each in fit:
        if (question := each.draw(rng, content)) is not None:
            found.append(question.worked)
    return tuple(rng.sample(found, len(found)))


class Talks(Dataset[Talk]):
    """The first `count` talks of a curriculum, each drawn when it is asked for."""

    def __init__(self, curriculum: TalkCurriculum, count: int, *, seed: int) -> None:
        self.curriculum, self.count, self.seed = curriculum, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Talk:
        return talk(self.curriculum, self.seed, row)
