"""Descriptions of clips, one for each part: every question is answerable from the parts it needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from optmerge.bench.modalities.world import HEIGHTS, QUARTERS, Actor, Content, Modality, Thing, Voice
from optmerge.evaluate.questions import Question

NAMES: Mapping[Modality, str] = {"audio": "sound", "video": "video", "image": "picture"}
"""Modality → the word that begins a description."""
CLOSEUP = "closeup"
"""Question type of the questions about one shape of a part."""
CAPTIONS: Mapping[Modality, str] = {
    "audio": "what do you hear?",
    "video": "what does the video show?",
    "image": "what does the picture show?",
}


def described(content: Content, modality: Modality, rng: random.Random | None = None) -> str:
    """The description of one part with all its facts, such as `sound: 2 loud low early star, number 3`.

    The kind of a shape comes last, so a language model, which reads from left to right, has met all facts of
    the shape when it reads the kind.

    Args:
        content: content of the clip.
        modality: the part.
        rng: source of the order in which shapes are named; row by row without one. Sounds keep their order.
    """
    facts = _FACTS[modality](content)
    if rng is not None and modality != "audio":
        rng.shuffle(facts)
    return f"{NAMES[modality]}: {', '.join(facts)}"


def caption(content: Content, modality: Modality) -> Question:
    """A question about everything in one part, with the description as its answer."""
    return Question(CAPTIONS[modality], (described(content, modality),), "caption")


def closeups(content: Content, modality: Modality, rng: random.Random) -> list[Question]:
    """Two questions about each shape of one part: one about all its facts, one about a single fact."""
    if modality == "audio":
        return [each for voice in content.sound.voices for each in _voice_asked(voice, rng)]
    shapes: Sequence[Actor | Thing] = content.film if modality == "video" else content.picture
    facts, where = _FACTS[modality](content), f"in the {NAMES[modality]}"
    found = []
    for shape, fact in zip(shapes, facts, strict=True):
        name = rng.choice((shape.kind, f"{shape.colour} shape"))
        found.append(Question(f"what is known of the {name} {where}?", (fact,), CLOSEUP))
        asked = [
            (f"what color is the {shape.kind} {where}?", shape.colour),
            (f"which shape is {shape.colour} {where}?", shape.kind),
        ]
        if isinstance(shape, Thing):
            asked.append((f"which shape is next to the {shape.number} {where}?", shape.kind))
        found.append(_lookup(asked, rng))
    return found


def _voice_asked(voice: Voice, rng: random.Random) -> list[Question]:
    asked = [
        (f"how often does the {voice.kind} sound?", str(voice.notes)),
        (f"is the {voice.kind} loud or soft?", _loudness(voice)),
        (f"is the {voice.kind} high or low?", _pitch(voice)),
    ]
    whole = Question(f"what is known of the sound of the {voice.kind}?", (_voice(voice),), CLOSEUP)
    return [whole, _lookup(asked, rng)]


def _lookup(asked: Sequence[tuple[str, str]], rng: random.Random) -> Question:
    text, answer = rng.choice(asked)
    return Question(text, (answer,), CLOSEUP)


def fact(content: Content, shape: Actor | Thing) -> str:
    """The facts of a shape in the film or the picture: its place first, its kind last."""
    if isinstance(shape, Actor):
        return f"{HEIGHTS[content.film.index(shape)]} {_actor(shape)}"
    return f"{QUARTERS[content.picture.index(shape)]} {_thing(shape)}"


def _film(content: Content) -> list[str]:
    return [fact(content, actor) for actor in content.film]


def _actor(actor: Actor) -> str:
    how = "resting"
    if actor.motion is not None:
        side = "right" if actor.motion.right else "left"
        when = "late" if actor.motion.late else "early"
        how = f"moving {side} {'far' if actor.motion.far else 'near'} {when}"
    return f"{how} {actor.colour} {actor.kind}"


def _picture(content: Content) -> list[str]:
    return [fact(content, thing) for thing in content.picture]


def _thing(thing: Thing) -> str:
    return f"{thing.number} {'big' if thing.big else 'small'} {thing.colour} {thing.kind}"


def _sound(content: Content) -> list[str]:
    heard = [(voice.slot, _voice(voice)) for voice in content.sound.voices]
    heard.append((content.sound.slot, f"number {content.sound.number}"))
    return [words for _, words in sorted(heard)]


def _voice(voice: Voice) -> str:
    when = "across" if voice.half is None else ("early", "late")[voice.half]
    return f"{voice.notes} {_loudness(voice)} {_pitch(voice)} {when} {voice.kind}"


def _loudness(voice: Voice) -> str:
    return "loud" if voice.loud else "soft"


def _pitch(voice: Voice) -> str:
    return "high" if voice.high else "low"


_FACTS: Mapping[Modality, Callable[[Content], list[str]]] = {
    "audio": _sound,
    "video": _film,
    "image": _picture,
}


def texts(contents: Sequence[Content]) -> list[str]:
    """Every text that describes or asks about these clips without a template, for the tokenizer."""
    found = []
    for content in contents:
        for each in NAMES:
            asked = [caption(content, each), *closeups(content, each, random.Random(content.seed))]
            found += [text for question in asked for text in (question.text, *question.answers)]
    return found
