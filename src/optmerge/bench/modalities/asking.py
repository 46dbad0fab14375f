"""What is asked about a clip, so that only who has every modality that a question needs can know the answer.

A template lists all questions of its form that a content allows. One is drawn in two steps: the answer, any
of those that the list has, then a question with that answer. So no wording tells its answer.

Nor does a part of the modalities, since the three are independent given the cast, and each is drawn without
preference: for each modality that a question needs there are changes of it that make every other content as
likely as the one at hand, keep the text and move the answer to any other choice. (Another mapping of kinds to
colours in the film; another order of voices; halves swapped.) Templates ask only where that holds. The tests
don't trust this paragraph: they draw the missing modality anew and count.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optmerge.bench.modalities.world import Content, Modality
from optmerge.evaluate.questions import Question

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
"""What a question may need, in the order of the tables."""
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Asked(Question):
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
    def worked(self) -> Asked:
        """With the answer as it is taught, the steps before what counts: `top left 3 big red star: yes`."""
        if not self.steps:
            return self
        return replace(self, answers=(f"{', '.join(self.steps)}: {self.answers[0]}",))

    @property
    def chance(self) -> float:
        """How often a guess is right."""
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
    """

    name: str
    family: Family
    needs: tuple[Modality, ...]
    queries: Queries

    def draw(self, rng: random.Random, content: Content) -> Asked | None:
        """A question of this form, its answer any one of the possible, or None."""
        by_answer: dict[str, list[Query]] = {}
        for query in self.queries(content):
            by_answer.setdefault(query.answer, []).append(query)
        if not by_answer:
            return None
        query = rng.choice(by_answer[rng.choice(sorted(by_answer))])
        return Asked(
            query.text,
            (query.answer,),
            self.name,
            self.family,
            self.needs,
            tuple(query.choices),
            tuple(query.steps),
        )


_TEMPLATES: dict[str, Template] = {}


def template(family: Family, *needs: Modality) -> Callable[[Queries], Queries]:
    """Makes a function from a content to its queries a template of its own name."""

    def made(queries: Queries) -> Queries:
        name = queries.__name__
        assert name not in _TEMPLATES and needs in NEEDS
        _TEMPLATES[name] = Template(name, family, needs, queries)
        return queries

    return made


def templates() -> Mapping[str, Template]:
    """Every template by name."""
    from optmerge.bench.modalities.templates import joint, single  # noqa: F401 - they make theirs known

    return _TEMPLATES


def questions(rng: random.Random, content: Content) -> tuple[Asked, ...]:
    """Of each family and set of modalities at most one question.

    Which template it is doesn't depend on the content; where that one can't be asked, none is.
    """
    groups: dict[tuple[Family, tuple[Modality, ...]], list[Template]] = {}
    for each in templates().values():
        groups.setdefault((each.family, each.needs), []).append(each)
    drawn = (rng.choice(group).draw(rng, content) for group in groups.values())
    return tuple(question for question in drawn if question is not None)
