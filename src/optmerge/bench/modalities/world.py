"""What a clip is about: a film, a picture and a sound of the same four kinds of shapes in four colours.

Given the cast, the three are drawn independently of each other, and each without preference: any kind may
have any colour, place, voice or motion. That is what makes a question fair (see `templates/_template.py`):
who lacks one of the modalities that the question needs has nothing to go by.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from optmerge.bench.tasks import Split, held_apart
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS

Modality = Literal["audio", "video", "image"]
MODALITIES: tuple[Modality, ...] = ("audio", "video", "image")

CAST = 4
"""Kinds and colours in a clip, and shapes in its film and its picture: each kind once, each colour once."""
SLOTS = 10
"""Notes that could be played one after the other; a spoken number takes the time of two."""
HEIGHTS = ("top", "upper", "lower", "bottom")
"""The lanes of a film, one below the other; each has one actor, who moves along it or stays."""
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
"""The parts of a picture; each has one thing."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cast:
    """The kinds and colours that a clip has, in the order of `KINDS` and `COLOURS`, which tells nothing."""

    kinds: tuple[str, ...]
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Motion:
    """How an actor moves.

    Args:
        late: in the second half of the film, not in the first.
        right: from left to right, not from right to left.
        far: a long way, not a short one; the time is the same.
    """

    late: bool
    right: bool
    far: bool


@dataclass(frozen=True)
class Actor:
    """A shape in a film; without a motion it stays where it is."""

    kind: str
    colour: str
    motion: Motion | None


@dataclass(frozen=True)
class Thing:
    """A shape in a picture, with a number printed beside it."""

    kind: str
    colour: str
    big: bool
    number: int


@dataclass(frozen=True)
class Voice:
    """The notes of one kind, one right after the other.

    Args:
        kind: whose voice.
        notes: 1 to 3.
        loud: not soft.
        high: not low.
        slot: of the first note.
    """

    kind: str
    notes: int
    loud: bool
    high: bool
    slot: int

    @property
    def half(self) -> int | None:
        """0 or 1 for the half of the clip that all notes lie in, None if they lie in both."""
        first, last = self.slot * 2 // SLOTS, (self.slot + self.notes - 1) * 2 // SLOTS
        return first if first == last else None


@dataclass(frozen=True)
class Sound:
    """Voices in order of time, and a number said before, between or after them.

    Args:
        voices: one to three of different kinds, each with a different number of notes.
        number: 1 to `CAST`.
        slot: in which the number begins.
    """

    voices: tuple[Voice, ...]
    number: int
    slot: int

    def voice(self, kind: str) -> Voice | None:
        """The voice of a kind, None if it is silent."""
        return next((voice for voice in self.voices if voice.kind == kind), None)


@dataclass(frozen=True)
class Content:
    """All there is to a clip.

    Args:
        cast: which kinds and colours there are.
        film: actors from the top to the bottom.
        picture: things in the order of `QUARTERS`.
        sound: voices and a number.
        seed: decides what nobody is asked about: exact colours, pixels and frequencies.
    """

    cast: Cast
    film: tuple[Actor, ...]
    picture: tuple[Thing, ...]
    sound: Sound
    seed: int

    def actor(self, name: str) -> Actor:
        """The actor of this kind or colour in the film."""
        return next(actor for actor in self.film if name in (actor.kind, actor.colour))

    def thing(self, name: str) -> Thing:
        """The thing of this kind or colour in the picture."""
        return next(thing for thing in self.picture if name in (thing.kind, thing.colour))


def plan(rng: random.Random, split: Split) -> Content:
    """A clip's content; no film, no picture and no sound of one split is in another."""
    cast = random_cast(rng)
    return Content(
        cast,
        held_apart(rng, split, lambda rng: random_film(rng, cast), lambda film: film),
        held_apart(rng, split, lambda rng: random_picture(rng, cast), lambda picture: picture),
        held_apart(rng, split, lambda rng: random_sound(rng, cast), lambda sound: sound),
        rng.getrandbits(32),
    )


def random_cast(rng: random.Random) -> Cast:
    """Any kinds and colours."""
    kinds, colours = rng.sample(KINDS, CAST), rng.sample(tuple(COLOURS), CAST)
    return Cast(tuple(k for k in KINDS if k in kinds), tuple(c for c in COLOURS if c in colours))


def random_film(rng: random.Random, cast: Cast) -> tuple[Actor, ...]:
    """One to three of the four move, each when, where and as far as it likes."""
    moving = _some(rng, rng.randint(1, CAST - 1))
    motions = [Motion(*(rng.random() < 0.5 for _ in range(3))) if moves else None for moves in moving]
    return tuple(map(Actor, _shuffled(rng, cast.kinds), _shuffled(rng, cast.colours), motions))


def random_picture(rng: random.Random, cast: Cast) -> tuple[Thing, ...]:
    """One to three of the four are big; each has another number."""
    big = _some(rng, rng.randint(1, CAST - 1))
    numbers = _shuffled(rng, range(1, CAST + 1))
    return tuple(map(Thing, _shuffled(rng, cast.kinds), _shuffled(rng, cast.colours), big, numbers))


def random_sound(rng: random.Random, cast: Cast) -> Sound:
    """One to three voices and a number in any order; the slots that are left over lie anywhere between."""
    kinds = rng.sample(cast.kinds, rng.randint(1, 3))
    notes = rng.sample((1, 2, 3), len(kinds))
    lengths = [*notes, 2]
    order = _shuffled(rng, range(len(lengths)))
    starts = dict(zip(order, _starts(rng, [lengths[each] for each in order]), strict=True))
    voices = [
        Voice(kind, number, rng.random() < 0.5, rng.random() < 0.5, starts[each])
        for each, (kind, number) in enumerate(zip(kinds, notes, strict=True))
    ]
    voices.sort(key=lambda voice: voice.slot)
    return Sound(tuple(voices), rng.randint(1, CAST), starts[len(kinds)])


def _starts(rng: random.Random, lengths: Sequence[int]) -> list[int]:
    """First slots of phrases in their order; every way to lay them out is as likely."""
    places = SLOTS - sum(lengths) + len(lengths)
    chosen = sorted(rng.sample(range(places), len(lengths)))
    return [place + sum(lengths[:each]) - each for each, place in enumerate(chosen)]


def _some(rng: random.Random, number: int) -> list[bool]:
    return _shuffled(rng, [True] * number + [False] * (CAST - number))


def _shuffled(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    return rng.sample(items, len(items))
