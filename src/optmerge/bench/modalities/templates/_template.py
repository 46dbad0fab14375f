"""Templates: forms of questions. A template lists all questions of its form that a content allows.

A question needs certain modalities: without one of them nobody can know the answer. One question is drawn in
two steps: the answer, any of those that the list has, then a question with that answer. So no wording tells
its answer.

Nor does a part of the modalities tell it. The three are independent given the cast, and each is drawn without
preference. So for each modality that a question needs there are changes of it that make every other content
as likely as the one at hand, keep the text, and move the answer to any other choice: another mapping of kinds
to colours in the film, another order of voices, halves swapped. Templates ask only where that holds. The
tests don't trust this paragraph: they draw the missing modality anew and count.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Literal

from optmerge.bench.modalities.world import Content, Modality
from optmerge.evaluate.questions import Question
from optmerge.registry import Registry

Family = Literal["existential", "counting", "location", "comparative", "temporal"]
FAMILIES: tuple[Family, ...] = ("existential", "counting", "location", "comparative", "temporal")
NEEDS: tuple[tuple[Modality, ...], ...] = (
    ("audio",),
    ("video",),
    ("image",),
    ("audio", "video"),
    ("audio", "image"),
    ("audio", "video", "image"),
)
"""Sets of modalities that a question may need, in the order of the tables."""
YES_NO = ("yes", "no")
COUNTS = ("1", "2", "3")


@dataclass(frozen=True)
class ClipQuestion(Question):
    """A question about something heard or seen; its `type` is the template's name.

    Args:
        family: what is asked for.
        needs: the modalities without one of which it can't be answered.
        choices: the answers that it leaves open to who knows what a clip may be; equally likely.
        steps: what is said on the way to the answer, in order.
    """

    family: str
    needs: tuple[Modality, ...]
    choices: tuple[str, ...]
    steps: tuple[str, ...] = ()

    @property
    def worked(self) -> ClipQuestion:
        """The question with the answer as it is taught, after its steps: `top left 3 big red star: yes`."""
        if not self.steps:
            return self
        return replace(self, answers=(f"{', '.join(self.steps)}: {self.answers[0]}",))

    @property
    def chance(self) -> float:
        """Share of guesses that are right."""
        return 1 / len(self.choices)


@dataclass(frozen=True)
class Query:
    """One question of a template.

    Args:
        text: of the question.
        answer: the right one.
        choices: all answers that are as likely.
        steps: on the way to the answer, in order: all that is known of what each lookup finds.
    """

    text: str
    answer: str
    choices: Sequence[str]
    steps: Sequence[str] = ()


Queries = Callable[[Content], Iterator[Query]]


@dataclass(frozen=True)
class Template:
    """A form of question.

    Args:
        name: unique.
        family: what it asks for.
        needs: the modalities its answer depends on.
        queries: every question of this form about a content, none where it can't be asked fairly.
        number: place among the templates in the order of their declaration.
    """

    name: str
    family: Family
    needs: tuple[Modality, ...]
    queries: Queries
    number: int = 0

    def draw(self, rng: random.Random, content: Content) -> ClipQuestion | None:
        """A question of this form, its answer any one of the possible, or None."""
        by_answer: dict[str, list[Query]] = {}
        for query in self.queries(content):
            by_answer.setdefault(query.answer, []).append(query)
        if not by_answer:
            return None
        query = rng.choice(by_answer[rng.choice(sorted(by_answer))])
        return ClipQuestion(
            query.text,
            (query.answer,),
            self.name,
            self.family,
            self.needs,
            tuple(query.choices),
            tuple(query.steps),
        )


_REGISTRY: Registry[Template] = Registry(
    "template", "optmerge.bench.modalities.templates", "optmerge.bench.templates"
)
_NUMBERS = count()


def template(family: Family, *needs: Modality) -> Callable[[Queries], Queries]:
    """Makes a function from a content to its queries a template of the function's name."""

    def made(queries: Queries) -> Queries:
        assert needs in NEEDS
        name = queries.__name__
        _REGISTRY.add(name, Template(name, family, needs, queries, next(_NUMBERS)), queries.__module__)
        return queries

    return made


@cache
def templates() -> Mapping[str, Template]:
    """Every template by name: those that need one modality first, then as they are declared."""
    found = _REGISTRY.all()
    return dict(sorted(found.items(), key=lambda each: (len(each[1].needs) > 1, each[1].number)))


def questions(rng: random.Random, content: Content) -> tuple[ClipQuestion, ...]:
    """At most one question of each family and set of modalities.

    Which template it is doesn't depend on the content; where that one can't be asked, none is.
    """
    groups: dict[tuple[Family, tuple[Modality, ...]], list[Template]] = {}
    for each in templates().values():
        groups.setdefault((each.family, each.needs), []).append(each)
    drawn = (rng.choice(group).draw(rng, content) for group in groups.values())
    return tuple(question for question in drawn if question is not None)


def yes(true: object) -> str:
    """The answer to whether something is so."""
    return "yes" if true else "no"
