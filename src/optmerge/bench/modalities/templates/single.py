"""Questions that one modality answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations

from optmerge.bench.modalities.describe import fact
from optmerge.bench.modalities.templates._template import COUNTS, YES_NO, Query, template, yes
from optmerge.bench.modalities.world import CAST, QUARTERS, Actor, Content, Thing
from optmerge.bench.tasks.drawn._drawing.place_words import a

NUMBERS = tuple(str(number + 1) for number in range(CAST))


@template("existential", "audio")
def heard(content: Content) -> Iterator[Query]:
    """Whether a kind sounds."""
    for kind in content.cast.kinds:
        yield Query(f"does the {kind} make a sound?", yes(content.sound.voice(kind)), YES_NO)


@template("counting", "audio")
def voices(content: Content) -> Iterator[Query]:
    """How many kinds sound."""
    yield Query("how many different shapes sound?", str(len(content.sound.voices)), COUNTS)


@template("counting", "audio")
def notes(content: Content) -> Iterator[Query]:
    """How many notes a voice has."""
    for voice in content.sound.voices:
        yield Query(f"how many times does the {voice.kind} sound?", str(voice.notes), COUNTS)


@template("counting", "audio")
def number(content: Content) -> Iterator[Query]:
    """Which number is said."""
    yield Query("what number is spoken?", str(content.sound.number), NUMBERS)


@template("comparative", "audio")
def louder(content: Content) -> Iterator[Query]:
    """Which of two voices is louder."""
    yield from _compared("sounds louder", {voice.kind: voice.loud for voice in content.sound.voices})


@template("comparative", "audio")
def higher(content: Content) -> Iterator[Query]:
    """Which of two voices is higher."""
    yield from _compared("sounds higher", {voice.kind: voice.high for voice in content.sound.voices})


@template("comparative", "audio")
def oftener(content: Content) -> Iterator[Query]:
    """Which of two voices has more notes."""
    yield from _compared("sounds more often", {voice.kind: voice.notes for voice in content.sound.voices})


@template("temporal", "audio")
def earlier_voice(content: Content) -> Iterator[Query]:
    """Which of two voices is first."""
    yield from _compared("sounds first", {voice.kind: -voice.slot for voice in content.sound.voices})


@template("temporal", "audio")
def number_in_time(content: Content) -> Iterator[Query]:
    """Whether the number is said before or after a voice."""
    for voice in content.sound.voices:
        when = "before" if content.sound.slot < voice.slot else "after"
        text = f"is the number spoken before or after the {voice.kind} sounds?"
        yield Query(text, when, ("before", "after"))


@template("existential", "video")
def in_film(content: Content) -> Iterator[Query]:
    """Whether the film shows a kind in a colour, both of which it has."""
    yield from _shown(content, content.actor, "video")


@template("counting", "video")
def movers(content: Content) -> Iterator[Query]:
    """How many actors move."""
    moving = sum(actor.motion is not None for actor in content.film)
    yield Query("how many shapes move in the video?", str(moving), COUNTS)


@template("location", "video")
def at_height(content: Content) -> Iterator[Query]:
    """What colour is in the first or last lane."""
    for height, actor in (("top", content.film[0]), ("bottom", content.film[-1])):
        yield Query(f"what color is at the {height} of the video?", actor.colour, content.cast.colours)


@template("location", "video")
def way(content: Content) -> Iterator[Query]:
    """In which direction an actor moves."""
    for actor in content.film:
        if actor.motion:
            side = "right" if actor.motion.right else "left"
            text = f"which way does the {actor.kind} move in the video?"
            yield Query(text, side, ("left", "right"), [fact(content, actor)])


@template("comparative", "video")
def farther(content: Content) -> Iterator[Query]:
    """Which of two actors moves farther."""
    far = {actor.kind: actor.motion.far for actor in content.film if actor.motion}
    yield from _compared("moves farther in the video", far)


@template("temporal", "video")
def earlier_mover(content: Content) -> Iterator[Query]:
    """Which of two actors moves first."""
    early = {actor.kind: not actor.motion.late for actor in content.film if actor.motion}
    yield from _compared("moves first in the video", early)


@template("existential", "image")
def in_picture(content: Content) -> Iterator[Query]:
    """Whether the picture shows a kind in a colour, both of which it has."""
    yield from _shown(content, content.thing, "picture")


@template("counting", "image")
def big_ones(content: Content) -> Iterator[Query]:
    """How many things are big."""
    big = sum(thing.big for thing in content.picture)
    yield Query("how many shapes in the picture are big?", str(big), COUNTS)


@template("counting", "image")
def printed(content: Content) -> Iterator[Query]:
    """Which number is printed beside a thing."""
    for thing in content.picture:
        text = f"what number is next to the {thing.kind} in the picture?"
        yield Query(text, str(thing.number), NUMBERS, [fact(content, thing)])


@template("location", "image")
def quarter(content: Content) -> Iterator[Query]:
    """In which quarter a kind is."""
    for place, thing in zip(QUARTERS, content.picture, strict=True):
        yield Query(f"where in the picture is the {thing.kind}?", place, QUARTERS)


@template("comparative", "image")
def bigger(content: Content) -> Iterator[Query]:
    """Which of two things is bigger."""
    yield from _compared("is bigger in the picture", {thing.kind: thing.big for thing in content.picture})


def _compared(does: str, much: Mapping[str, float]) -> Iterator[Query]:
    """Which of two kinds does something more than the other, for every two that differ."""
    for (one, first), (other, second) in permutations(much.items(), 2):
        if first != second:
            kinds = one, other
            yield Query(f"which {does}, the {one} or the {other}?", kinds[first < second], kinds)


def _shown(content: Content, find: Callable[[str], Actor | Thing], where: str) -> Iterator[Query]:
    for colour in content.cast.colours:
        for kind in content.cast.kinds:
            shape = find(kind)
            text = f"is there {a(f'{colour} {kind}')} in the {where}?"
            yield Query(text, yes(colour == shape.colour), YES_NO, [fact(content, shape)])
