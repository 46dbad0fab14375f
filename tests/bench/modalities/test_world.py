from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from optmerge.bench.modalities import clips, world
from optmerge.bench.tasks import SPLITS
from worlds.samples import examples


def contents(split: str, number: int = 300) -> list[Any]:
    return [clips.content(split, index) for index in range(number)]


@pytest.mark.sampled
def test_no_film_no_picture_and_no_sound_of_a_split_is_in_another() -> None:
    owners = {}
    for split in SPLITS:
        for content in contents(split, examples(few=150, many=600)):
            for part in (content.film, content.picture, content.sound):
                assert owners.setdefault(part, split) == split


def test_the_same_random_numbers_give_every_split_a_world_of_its_own() -> None:
    for seed in range(40):
        made = [world.plan(random.Random(seed), split) for split in SPLITS]
        assert len({content.film for content in made}) == len(SPLITS)
        assert len({content.picture for content in made}) == len(SPLITS)
        assert len({content.sound for content in made}) == len(SPLITS)


def test_film_and_picture_show_the_whole_cast_once_and_the_sound_nobody_else() -> None:
    for content in contents("train"):
        for shown in (content.film, content.picture):
            assert {each.kind for each in shown} == set(content.cast.kinds)
            assert {each.colour for each in shown} == set(content.cast.colours)
            assert len(shown) == world.CAST
        assert {voice.kind for voice in content.sound.voices} <= set(content.cast.kinds)
        assert {thing.number for thing in content.picture} == {1, 2, 3, 4}


def test_phrases_follow_one_another_inside_the_clip() -> None:
    for content in contents("train"):
        sound = content.sound
        phrases = [(voice.slot, voice.slot + voice.notes) for voice in sound.voices]
        assert phrases == sorted(phrases)
        phrases = sorted([*phrases, (sound.slot, sound.slot + 2)])
        assert phrases[0][0] >= 0 and phrases[-1][1] <= world.SLOTS
        assert all(one[1] <= other[0] for one, other in pairwise(phrases))


def test_every_way_to_lay_out_phrases_is_as_likely() -> None:
    """Notes of 1 and 2 slots and a number of 2 in 10 slots: 8 choose 3 places, in six orders."""
    rng = random.Random(0)
    laid = Counter(tuple(world._starts(rng, [1, 2, 2])) for _ in range(56 * 200))
    assert len(laid) == 56
    assert max(laid.values()) < 260 and min(laid.values()) > 140


def test_voices_movers_and_big_ones_are_one_two_or_three_as_often() -> None:
    found = contents("train", 1500)
    for counts in (
        Counter(len(content.sound.voices) for content in found),
        Counter(sum(actor.motion is not None for actor in content.film) for content in found),
        Counter(sum(thing.big for thing in content.picture) for content in found),
    ):
        assert set(counts) == {1, 2, 3}
        assert min(counts.values()) > 430


def test_a_voice_is_in_a_half_only_if_all_of_it_is() -> None:
    def voice(slot: Any, notes: Any) -> Any:
        return world.Voice("star", notes, True, True, slot).half

    assert [voice(0, 3), voice(3, 2), voice(3, 3), voice(5, 1), voice(7, 3)] == [0, 0, None, 1, 1]
