"""Questions that need the sound and the film, the sound and the picture, or all three.

What is named by its colour is heard by its kind: film or picture say which kind has which colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations

from optmerge.bench.modalities.describe import fact
from optmerge.bench.modalities.templates._template import COUNTS, YES_NO, Query, template, yes
from optmerge.bench.modalities.world import HEIGHTS, QUARTERS, Actor, Content, Thing, Voice
from optmerge.bench.tasks.drawn._drawing.place_words import a

_Find = Callable[[Content, str], Actor | Thing]
_FILM: tuple[str, _Find] = ("video", Content.actor)
_PICTURE: tuple[str, _Find] = ("picture", Content.thing)
_HALVES = ("early", "late")
_EXTREMES: Mapping[str, Callable[[Voice], bool]] = {
    "loudest": lambda voice: voice.loud,
    "softest": lambda voice: not voice.loud,
    "highest": lambda voice: voice.high,
    "lowest": lambda voice: not voice.high,
}


@template("existential", "audio", "video")
def coloured_actor_heard(content: Content) -> Iterator[Query]:
    """Whether the actor of a colour sounds."""
    yield from _heard(content, *_FILM)


@template("existential", "audio", "image")
def coloured_thing_heard(content: Content) -> Iterator[Query]:
    """Whether the thing of a colour sounds."""
    yield from _heard(content, *_PICTURE)


def _heard(content: Content, where: str, find: _Find) -> Iterator[Query]:
    for colour in content.cast.colours:
        shape = find(content, colour)
        text = f"does the {colour} shape in the {where} make a sound?"
        yield Query(text, yes(content.sound.voice(shape.kind)), YES_NO, [fact(content, shape)])


@template("counting", "audio", "video")
def coloured_actor_notes(content: Content) -> Iterator[Query]:
    """How many notes the actor of a colour has."""
    yield from _notes(content, *_FILM)


@template("counting", "audio", "image")
def coloured_thing_notes(content: Content) -> Iterator[Query]:
    """How many notes the thing of a colour has."""
    yield from _notes(content, *_PICTURE)


def _notes(content: Content, where: str, find: _Find) -> Iterator[Query]:
    for voice in _of_every_count(content):
        shape = find(content, voice.kind)
        text = f"how many times does the {shape.colour} shape in the {where} sound?"
        yield Query(text, str(voice.notes), COUNTS, [fact(content, shape)])


@template("location", "audio", "video")
def height_of_voice(content: Content) -> Iterator[Query]:
    """In which lane the first or the last voice's actor is."""
    for order, voice in _ends(content):
        place = HEIGHTS[content.film.index(content.actor(voice.kind))]
        text = f"where in the video is what sounds {order}: top, upper, lower or bottom?"
        yield Query(text, place, HEIGHTS, [voice.kind])


@template("location", "audio", "image")
def quarter_of_voice(content: Content) -> Iterator[Query]:
    """In which quarter the first or the last voice's thing is."""
    for order, voice in _ends(content):
        text = f"where in the picture is what sounds {order}?"
        yield Query(text, _place(content, content.thing(voice.kind)), QUARTERS, [voice.kind])


@template("location", "audio", "image")
def quarter_of_number(content: Content) -> Iterator[Query]:
    """In which quarter the spoken number is printed."""
    thing = _numbered(content)
    text = "where in the picture is the spoken number?"
    yield Query(text, _place(content, thing), QUARTERS, [fact(content, thing)])


@template("comparative", "audio", "video")
def louder_actor(content: Content) -> Iterator[Query]:
    """Which of two colours is louder."""
    yield from _compared(content, "louder", lambda voice: voice.loud, *_FILM)


@template("comparative", "audio", "image")
def louder_thing(content: Content) -> Iterator[Query]:
    """Which of two colours is louder."""
    yield from _compared(content, "louder", lambda voice: voice.loud, *_PICTURE)


@template("comparative", "audio", "video")
def higher_actor(content: Content) -> Iterator[Query]:
    """Which of two colours is higher."""
    yield from _compared(content, "higher", lambda voice: voice.high, *_FILM)


@template("comparative", "audio", "image")
def higher_thing(content: Content) -> Iterator[Query]:
    """Which of two colours is higher."""
    yield from _compared(content, "higher", lambda voice: voice.high, *_PICTURE)


def _compared(
    content: Content, how: str, much: Callable[[Voice], bool], where: str, find: _Find
) -> Iterator[Query]:
    for one, other in permutations(content.sound.voices, 2):
        if much(one) != much(other):
            shapes = find(content, one.kind), find(content, other.kind)
            colours = tuple(shape.colour for shape in shapes)
            text = f"which in the {where} sounds {how}, the {colours[0]} or the {colours[1]} shape?"
            more = other if much(other) else one
            steps = *(fact(content, shape) for shape in shapes), more.kind
            yield Query(text, find(content, more.kind).colour, colours, steps)


@template("temporal", "audio", "video")
def colour_of_voice_in_film(content: Content) -> Iterator[Query]:
    """What colour the first or the last voice's actor has."""
    yield from _colours(content, *_FILM)


@template("temporal", "audio", "image")
def colour_of_voice_in_picture(content: Content) -> Iterator[Query]:
    """What colour the first or the last voice's thing has."""
    yield from _colours(content, *_PICTURE)


def _colours(content: Content, where: str, find: _Find) -> Iterator[Query]:
    for order, voice in _ends(content):
        shape = find(content, voice.kind)
        text = f"what color in the {where} is what sounds {order}?"
        yield Query(text, shape.colour, content.cast.colours, [voice.kind, fact(content, shape)])


@template("temporal", "audio", "video")
def sounds_while_moving(content: Content) -> Iterator[Query]:
    """Whether a voice and its actor's movement are in the same half."""
    for voice in content.sound.voices:
        actor = content.actor(voice.kind)
        if actor.motion and voice.half is not None:
            text = f"does the {voice.kind} sound while it moves in the video?"
            together = voice.half == actor.motion.late
            steps = _HALVES[voice.half], fact(content, actor)
            yield Query(text, yes(together), YES_NO, steps)


@template("temporal", "audio", "video")
def moves_while_sounding(content: Content) -> Iterator[Query]:
    """Which of two movers of different halves moves while a voice sounds."""
    for voice in content.sound.voices:
        for one, other in permutations(content.film, 2):
            if (
                voice.half is not None
                and one.motion
                and other.motion
                and one.motion.late != other.motion.late
            ):
                colours = one.colour, other.colour
                text = (
                    f"which moves while the {voice.kind} sounds, the {colours[0]} or the {colours[1]} shape?"
                )
                steps = _HALVES[voice.half], fact(content, one)
                yield Query(text, colours[voice.half != one.motion.late], colours, steps)


@template("existential", "audio", "video", "image")
def colour_of_voice_on_kind(content: Content) -> Iterator[Query]:
    """Whether the first or last voice's colour in the film is a given kind's in the picture."""
    for order, voice in _ends(content):
        found, steps = _same_colour(content, voice), _to_picture(content, voice)
        for kind in content.cast.kinds:
            text = f"is the video color of what sounds {order} on {a(kind)} in the picture?"
            yield Query(text, yes(kind == found.kind), YES_NO, steps)


@template("counting", "audio", "video", "image")
def notes_of_colour_of_kind(content: Content) -> Iterator[Query]:
    """How many notes the actor has whose colour a given kind has in the picture."""
    for voice in _of_every_count(content):
        kind = _same_colour(content, voice).kind
        text = f"how many times does the video shape with the color of the {kind} in the picture sound?"
        steps = fact(content, content.thing(kind)), fact(content, content.actor(voice.kind))
        yield Query(text, str(voice.notes), COUNTS, steps)


@template("location", "audio", "video", "image")
def quarter_of_colour_of_voice(content: Content) -> Iterator[Query]:
    """In which quarter of the picture the first or last voice's colour in the film is."""
    for order, voice in _ends(content):
        yield _placed(content, voice, order)


@template("location", "audio", "video", "image")
def height_of_spoken_number(content: Content) -> Iterator[Query]:
    """In which lane the kind is that has the spoken number in the picture."""
    thing = _numbered(content)
    place = HEIGHTS[content.film.index(content.actor(thing.kind))]
    text = "where in the video is the shape that is next to the spoken number in the picture?"
    yield Query(text, place, HEIGHTS, [fact(content, thing)])


@template("comparative", "audio", "video", "image")
def quarter_of_colour_of_loudest(content: Content) -> Iterator[Query]:
    """In which quarter the film's colour of the loudest, softest, highest or lowest voice is."""
    for extreme, voice in _extremes(content):
        yield _placed(content, voice, extreme)


@template("temporal", "audio", "video", "image")
def kind_of_colour_of_voice(content: Content) -> Iterator[Query]:
    """Which kind in the picture has the first or last voice's colour in the film."""
    for order, voice in _ends(content):
        kind = _same_colour(content, voice).kind
        text = f"which shape in the picture has the video color of what sounds {order}?"
        yield Query(text, kind, content.cast.kinds, _to_picture(content, voice))


def _ends(content: Content) -> Iterator[tuple[str, Voice]]:
    """The first and the last voice, where there is more than one."""
    if len(content.sound.voices) > 1:
        yield "first", content.sound.voices[0]
        yield "last", content.sound.voices[-1]


def _extremes(content: Content) -> Iterator[tuple[str, Voice]]:
    """The voices that differ from all others in loudness or pitch."""
    for extreme, much in _EXTREMES.items():
        alone = [voice for voice in content.sound.voices if much(voice)]
        if len(alone) == 1 < len(content.sound.voices):
            yield extreme, alone[0]


def _of_every_count(content: Content) -> tuple[Voice, ...]:
    """The voices where each count has one; else who hears them all can rule counts out."""
    return content.sound.voices if len(content.sound.voices) == len(COUNTS) else ()


def _same_colour(content: Content, voice: Voice) -> Thing:
    """The thing in the picture with the colour that the voice's kind has in the film."""
    return content.thing(content.actor(voice.kind).colour)


def _to_picture(content: Content, voice: Voice) -> tuple[str, str, str]:
    """The voice's kind, that kind in the film, what has the same colour in the picture."""
    return voice.kind, fact(content, content.actor(voice.kind)), fact(content, _same_colour(content, voice))


def _placed(content: Content, voice: Voice, which: str) -> Query:
    text = f"where in the picture is the video color of what sounds {which}?"
    place = _place(content, _same_colour(content, voice))
    return Query(text, place, QUARTERS, _to_picture(content, voice))


def _numbered(content: Content) -> Thing:
    """The thing in the picture beside the spoken number."""
    return next(thing for thing in content.picture if thing.number == content.sound.number)


def _place(content: Content, thing: Thing) -> str:
    return QUARTERS[content.picture.index(thing)]
