"""What every clip promises the trainer and the tables."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from typing import Any

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.templates import FAMILIES, NEEDS
from optmerge.bench.tasks import SPLITS
from optmerge.evaluate.scoring.vqa import exact_match, normalise

POSSIBLE = {
    ("audio",): set(FAMILIES) - {"location"},  # one microphone hears no place
    ("image",): set(FAMILIES) - {"temporal"},  # a still has no time
}
TEXT = re.compile(r"(?:[a-z]+|[0-9]+|[ ,:?])+")
WORDS_ASKED, WORDS_ANSWERED = 17, 2


@cache
def asked(split: str = "train", number: int = 500) -> list[Any]:
    return [clips.asked(clips.content(split, index)) for index in range(number)]


def test_gold_answers_score_one_and_shuffled_ones_at_chance() -> None:
    groups = defaultdict(list)
    for questions in asked():
        for question in questions:
            groups[question.type].append(question)
    scores, chances = [], []
    for group in groups.values():
        shuffled = random.Random(0).sample(group, len(group))
        assert all(exact_match(question.answers[0], question.answers) == 1 for question in group)
        scores += [exact_match(o.answers[0], q.answers) for o, q in zip(shuffled, group, strict=True)]
        chances += [question.chance for question in group]
    assert sum(scores) / len(scores) < sum(chances) / len(chances) + 0.02


def test_choices_stay_different_when_answers_are_normalised() -> None:
    for question in (question for questions in asked() for question in questions):
        assert len({normalise(choice) for choice in question.choices}) == len(question.choices)
        assert question.answers[0] in question.choices


def test_every_need_and_family_that_makes_sense_is_asked_often() -> None:
    counts = Counter((q.needs, q.family) for questions in asked() for q in questions)
    for needs in NEEDS:
        assert {family for other, family in counts if other == needs} == POSSIBLE.get(needs, set(FAMILIES))
    assert min(counts.values()) > 0.15 * len(asked())


def test_a_clip_asks_no_text_twice() -> None:
    for questions in asked():
        assert len({question.text for question in questions}) == len(questions)


def test_text_is_plain_and_short() -> None:
    for question in (question for questions in asked() for question in questions):
        assert TEXT.fullmatch(question.text) and question.text == " ".join(question.text.split())
        assert len(question.text.split()) <= WORDS_ASKED
        assert 1 <= len(question.answers[0].split()) <= WORDS_ANSWERED


def test_pictures_films_and_sounds_differ_between_splits_indices_and_seeds() -> None:
    made = [clips.clip(split, index) for split in SPLITS for index in range(4)]
    made.append(clips.clip("train", 0, seed=1))
    for part in (
        {clip.frames.tobytes() for clip in made},
        {clip.picture.tobytes() for clip in made},
        {clip.waveform.tobytes() for clip in made},
    ):
        assert len(part) == len(made)


DIGEST = """
import hashlib
from optmerge.bench.modalities import clips

found = hashlib.blake2b(digest_size=8)
for split in ("train", "test"):
    for index in range(10):
        clip = clips.clip(split, index, seed=5)
        found.update(clip.frames.tobytes() + clip.picture.tobytes())
        found.update(repr(clip.questions).encode())
        found.update(clip.waveform.tobytes())
digest = found.hexdigest()
"""


def test_clips_are_the_same_in_another_process() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
    )
    space = {}
    exec(DIGEST, space)
    assert space["digest"] == shown.stdout.strip()
