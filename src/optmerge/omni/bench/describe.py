"""What a clip holds in words, a part for each modality: every question is answerable from those it needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from optmerge.bench.tasks.registry import Question
from optmerge.omni.bench.world import HEIGHTS, QUARTERS, Actor, Content, Modality, Thing, Voice

NAMES: Mapping[Modality, str] = {"audio": "sound", "video": "video", "image": "picture"}
"""How a description begins."""
CAPTIONS: Mapping[Modality, str] = {
    "audio": "what do you hear?",
    "video": "what does the video show?",
    "image": "what does the picture show?",
}


def described(content: Content, modality: Modality, rng: random.Random | None = None) -> str:
    """All that is to be known of one part, such as `sound: star 2 loud low early, number 3`.

    Args:
        content: of the clip.
        modality: the part.
        rng: to name what lies beside each other in any order; row by row without. Sounds keep their order.
    """
    facts = _FACTS[modality](content)
    if rng is not None and modality != "audio":
        rng.shuffle(facts)
    return f"{NAMES[modality]}: {', '.join(facts)}"


def caption(content: Content, modality: Modality) -> Question:
    """A question for all that is seen or heard, and the description as its answer."""
    return Question(CAPTIONS[modality], (described(content, modality),), "caption")


def _film(content: Content) -> list[str]:
    return [f"{height} {_actor(actor)}" for height, actor in zip(HEIGHTS, content.film, strict=True)]


def _actor(actor: Actor) -> str:
    how = "stays"
    if actor.motion is not None:
        side = "right" if actor.motion.right else "left"
        how = (
            f"moves {side} {'far' if actor.motion.far else 'near'} {'late' if actor.motion.late else 'early'}"
        )
    return f"{actor.colour} {actor.kind} {how}"


def _picture(content: Content) -> list[str]:
    return [f"{place} {_thing(thing)}" for place, thing in zip(QUARTERS, content.picture, strict=True)]


def _thing(thing: Thing) -> str:
    return f"{'big' if thing.big else 'small'} {thing.colour} {thing.kind} {thing.number}"


def _sound(content: Content) -> list[str]:
    heard = [(voice.slot, _voice(voice)) for voice in content.sound.voices]
    heard.append((content.sound.slot, f"number {content.sound.number}"))
    return [words for _, words in sorted(heard)]


def _voice(voice: Voice) -> str:
    when = "across" if voice.half is None else ("early", "late")[voice.half]
    loud, high = "loud" if voice.loud else "soft", "high" if voice.high else "low"
    return f"{voice.kind} {voice.notes} {loud} {high} {when}"


_FACTS: Mapping[Modality, Callable[[Content], list[str]]] = {
    "audio": _sound,
    "video": _film,
    "image": _picture,
}


def texts(contents: Sequence[Content]) -> list[str]:
    """Every word there is to describe these clips with."""
    return [text for content in contents for each in NAMES for text in
            (described(content, each), CAPTIONS[each])]  # fmt: skip
