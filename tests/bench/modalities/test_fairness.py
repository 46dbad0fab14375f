"""No one knows an answer without all that its question needs: counted, not argued.

Given the cast, film, picture and sound are independent. So who lacks one of them knows just what contents
agree with the rest, and how likely each of these is to be asked this question: by drawing the missing one
anew and weighing each draw with that likelihood, the test makes the best guesser there can be.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from optmerge.bench.modalities import clips, world
from optmerge.bench.modalities.templates import NEEDS, Query, Template, templates
from worlds.samples import sample

TEMPLATES = templates()
CONTENTS, DRAWS = 250, 160
each_template = pytest.mark.parametrize("name", TEMPLATES)
some_templates = pytest.mark.parametrize("name", sample(TEMPLATES, 2))
ANEW = {
    "audio": lambda rng, content: replace(content, sound=world.random_sound(rng, content.cast)),
    "video": lambda rng, content: replace(content, film=world.random_film(rng, content.cast)),
    "image": lambda rng, content: replace(content, picture=world.random_picture(rng, content.cast)),
}


@cache
def contents(number: int) -> list[Any]:
    return [clips.content("train", index) for index in range(number)]


@cache
def anew(modality: Any) -> list[Any]:
    """Contents, and for each many that differ from it in one modality."""
    rng = random.Random(modality)
    return [[ANEW[modality](rng, content) for _ in range(DRAWS)] for content in contents(CONTENTS)]


def asked_with(template: Any, content: Any) -> dict[Any, Any]:
    """Text → (answer, how likely the question is drawn)."""
    queries = list(template.queries(content))
    alike = Counter(query.answer for query in queries)
    return {query.text: (query.answer, 1 / len(alike) / alike[query.answer]) for query in queries}


@each_template
def test_a_template_asks_each_text_once_and_leaves_its_answer_open(name: str) -> None:
    for content in contents(CONTENTS):
        queries = list(TEMPLATES[name].queries(content))
        assert len({query.text for query in queries}) == len(queries)
        assert all(query.answer in query.choices and len(set(query.choices)) > 1 for query in queries)


def best_guess(template: Any, missing: Any) -> tuple[Any, ...]:
    """How often the best guesser who lacks a modality is right, and how often a blind one would be."""
    rng, right, chance = random.Random(template.name), [], []
    for content, others in zip(contents(CONTENTS), anew(missing), strict=True):
        question = template.draw(rng, content)
        if question is None:
            continue
        believed, counted = Counter(), Counter()
        for number, other in enumerate(others):
            answer, weight = asked_with(template, other).get(question.text, (None, 0))
            (believed if number % 2 else counted)[answer] += weight
        del believed[None], counted[None]
        if believed and counted:
            right.append(counted[believed.most_common(1)[0][0]] / counted.total())
            chance.append(question.chance)
    assert len(right) >= 20
    return sum(right) / len(right), sum(chance) / len(chance)


@pytest.mark.sampled
@some_templates
def test_who_lacks_one_needed_modality_is_at_chance(name: str) -> None:
    for missing in TEMPLATES[name].needs:
        best, chance = best_guess(TEMPLATES[name], missing)
        assert best < chance + 0.07, (missing, best, chance)


def test_an_unfair_template_is_found_out() -> None:
    """How often an actor sounds, asked also where few voices leave few counts: half the answer is heard."""

    def unfair(content: Any) -> Iterator[Any]:
        for voice in content.sound.voices:
            colour = content.actor(voice.kind).colour
            yield Query(f"how often does {colour} sound?", str(voice.notes), ("1", "2", "3"))

    best, chance = best_guess(Template("unfair", "counting", ("audio", "video"), unfair), "video")
    assert best > chance + 0.2


@pytest.mark.sampled
@some_templates
def test_nothing_but_what_is_needed_decides_the_answer(name: str) -> None:
    template = TEMPLATES[name]
    for spare in set(ANEW) - set(template.needs):
        for content, others in zip(contents(CONTENTS), anew(spare), strict=True):
            expected = asked_with(template, content)
            assert all(asked_with(template, other) == expected for other in others[:10])


def test_a_blind_guesser_is_at_chance_in_every_family_and_need() -> None:
    """It has learnt the most frequent answer to each text, or of each template for a text it hasn't met."""
    rows = [question for content in contents(2500) for question in clips.asked(content)]
    random.Random(0).shuffle(rows)
    learnt = defaultdict(Counter)
    for question in rows[::2]:
        learnt[question.text][question.answers[0]] += 1
        learnt[question.type][question.answers[0]] += 1
    right, chance = defaultdict(list), defaultdict(list)
    for question in rows[1::2]:
        guess = (learnt.get(question.text) or learnt[question.type]).most_common(1)[0][0]
        for key in ((question.family, question.needs), question.type):
            right[key].append(guess == question.answers[0])
            chance[key].append(question.chance)
    assert {key for key in right if isinstance(key, str)} == set(TEMPLATES)
    assert {needs for _, needs in (key for key in right if isinstance(key, tuple))} == set(NEEDS)
    for key, scores in right.items():
        expected = sum(chance[key]) / len(scores)
        assert sum(scores) / len(scores) < expected + 0.07 + 1 / len(scores) ** 0.5, key
