"""Answers are worked out again from the words of the questions, over plain tables of who does what when."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.templates import templates
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS

KIND, COLOUR = f"({'|'.join(KINDS)})", f"({'|'.join(COLOURS)})"


@cache
def contents() -> list[Any]:
    return [clips.content(split, index) for split in ("train", "test") for index in range(150)]


class Facts:
    """What is true of a clip: tables from kinds to what they do."""

    def __init__(self, content: Any) -> None:
        self.film = {actor.kind: actor.colour for actor in content.film}
        self.picture = {thing.kind: thing.colour for thing in content.picture}
        self.lane = {actor.kind: lane for lane, actor in enumerate(content.film)}
        self.motion = {actor.kind: actor.motion for actor in content.film if actor.motion}
        self.place = {
            thing.colour: f"{('top', 'bottom')[n // 2]} {('left', 'right')[n % 2]}"
            for n, thing in enumerate(content.picture)
        }
        self.printed = {thing.number: thing.kind for thing in content.picture}
        self.big = {thing.kind for thing in content.picture if thing.big}
        self.sound = {voice.kind: voice for voice in content.sound.voices}
        self.order = sorted(self.sound, key=lambda kind: self.sound[kind].slot)
        self.number, self.spoken_at = content.sound.number, content.sound.slot

    def wearing(self, colour: Any, where: Any) -> Any:
        """The kind of that colour."""
        (found,) = [k for k, c in (self.film if where == "video" else self.picture).items() if c == colour]
        return found

    def colours(self, where: Any) -> Any:
        return self.film if where == "video" else self.picture

    def sounding(self, which: Any) -> Any:
        """The kind that sounds first, last, loudest, …"""
        if which in ("first", "last"):
            return self.order[0 if which == "first" else -1]
        trait, wanted = {
            "loudest": ("loud", True),
            "softest": ("loud", False),
            "highest": ("high", True),
            "lowest": ("high", False),
        }[which]
        (found,) = [kind for kind, voice in self.sound.items() if getattr(voice, trait) == wanted]
        return found

    def times(self, kind: str) -> tuple[Any, ...]:
        """When a kind sounds and when it moves, as sets of twentieths of the clip."""
        voice, motion = self.sound.get(kind), self.motion.get(kind)
        heard = set(range(2 * voice.slot, 2 * (voice.slot + voice.notes))) if voice else set()
        return heard, set(range(10, 20) if motion.late else range(10)) if motion else set()


def yes(true: Any) -> str:
    return "yes" if true else "no"


def more(facts: Any, does: Any, one: Any, other: Any) -> Any:
    """The one of two kinds that does something more."""
    size = {
        "sounds louder": lambda kind: facts.sound[kind].loud,
        "sounds higher": lambda kind: facts.sound[kind].high,
        "sounds more often": lambda kind: facts.sound[kind].notes,
        "sounds first": lambda kind: -facts.sound[kind].slot,
        "moves farther in the video": lambda kind: facts.motion[kind].far,
        "moves first in the video": lambda kind: not facts.motion[kind].late,
        "is bigger in the picture": lambda kind: kind in facts.big,
    }[does]
    assert size(one) != size(other)
    return max(one, other, key=size)


def which_colour(facts: Any, where: Any, how: Any, one: Any, other: Any) -> Any:
    kinds = facts.wearing(one, where), facts.wearing(other, where)
    return facts.colours(where)[more(facts, f"sounds {how}", *kinds)]


def moving_while(facts: Any, kind: str, *colours: Any) -> Any:
    (found,) = [c for c in colours if facts.times(kind)[0] <= facts.times(facts.wearing(c, "video"))[1]]
    return found


def lane(facts: Any, kind: str) -> Any:
    return ("top", "upper", "lower", "bottom")[facts.lane[kind]]


ANSWERS = {
    rf"does the {KIND} make a sound\?": lambda f, k: yes(k in f.sound),
    r"how many different shapes sound\?": lambda f: str(len(f.sound)),
    rf"how many times does the {KIND} sound\?": lambda f, k: str(f.sound[k].notes),
    r"what number is spoken\?": lambda f: str(f.number),
    rf"which ((?:sounds|moves|is) .+), the {KIND} or the {KIND}\?": more,
    rf"is the number spoken before or after the {KIND} sounds\?": lambda f, k: (
        "before" if f.spoken_at < f.sound[k].slot else "after"
    ),
    rf"is there an? {COLOUR} {KIND} in the (video|picture)\?": lambda f, c, k, w: yes(f.colours(w)[k] == c),
    r"how many shapes move in the video\?": lambda f: str(len(f.motion)),
    r"what color is at the (top|bottom) of the video\?": lambda f, place: next(
        f.film[kind] for kind in f.lane if lane(f, kind) == place
    ),
    rf"which way does the {KIND} move in the video\?": lambda f, k: "right" if f.motion[k].right else "left",
    r"how many shapes in the picture are big\?": lambda f: str(len(f.big)),
    rf"what number is next to the {KIND} in the picture\?": lambda f, k: str(
        next(number for number, kind in f.printed.items() if kind == k)
    ),
    rf"where in the picture is the {KIND}\?": lambda f, k: f.place[f.picture[k]],
    rf"does the {COLOUR} shape in the (video|picture) make a sound\?": lambda f, c, w: yes(
        f.wearing(c, w) in f.sound
    ),
    rf"how many times does the {COLOUR} shape in the (video|picture) sound\?": lambda f, c, w: str(
        f.sound[f.wearing(c, w)].notes
    ),
    r"where in the video is what sounds (\w+): top, upper, lower or bottom\?": lambda f, which: lane(
        f, f.sounding(which)
    ),
    r"where in the picture is what sounds (\w+)\?": lambda f, which: f.place[f.picture[f.sounding(which)]],
    r"where in the picture is the spoken number\?": lambda f: f.place[f.picture[f.printed[f.number]]],
    r"which in the (video|picture) sounds (louder|higher), "
    rf"the {COLOUR} or the {COLOUR} shape\?": which_colour,
    r"what color in the (video|picture) is what sounds (\w+)\?": lambda f, w, which: f.colours(w)[
        f.sounding(which)
    ],
    rf"does the {KIND} sound while it moves in the video\?": lambda f, k: yes(f.times(k)[0] <= f.times(k)[1]),
    rf"which moves while the {KIND} sounds, the {COLOUR} or the {COLOUR} shape\?": moving_while,
    rf"is the video color of what sounds (\w+) on an? {KIND} in the picture\?": lambda f, which, k: yes(
        f.picture[k] == f.film[f.sounding(which)]
    ),
    r"how many times does the video shape "
    rf"with the color of the {KIND} in the picture sound\?": lambda f, k: str(
        f.sound[f.wearing(f.picture[k], "video")].notes
    ),
    r"where in the picture is the video color of what sounds (\w+)\?": lambda f, which: f.place[
        f.film[f.sounding(which)]
    ],
    r"where in the video is the shape that is next to the spoken number in the picture\?": lambda f: lane(
        f, f.printed[f.number]
    ),
    r"which shape in the picture has the video color of what sounds (\w+)\?": lambda f, which: f.wearing(
        f.film[f.sounding(which)], "picture"
    ),
}


def half(times: Any) -> str:
    return "early" if max(times) < 10 else "late"


def shape(facts: Any, kind: str, where: Any) -> str:
    """All that is to be said of a kind in the film or in the picture."""
    colour = facts.colours(where)[kind]
    if where == "picture":
        number = next(number for number, each in facts.printed.items() if each == kind)
        return f"{facts.place[colour]} {number} {'big' if kind in facts.big else 'small'} {colour} {kind}"
    how, motion = "resting", facts.motion.get(kind)
    if motion:
        how = f"moving {'right' if motion.right else 'left'} {'far' if motion.far else 'near'}"
        how += f" {half(facts.times(kind)[1])}"
    return f"{lane(facts, kind)} {how} {colour} {kind}"


def via_picture(facts: Any, which: Any) -> tuple[Any, ...]:
    kind = facts.sounding(which)
    alike = facts.wearing(facts.film[kind], "picture")
    return kind, shape(facts, kind, "video"), shape(facts, alike, "picture")


def compared(facts: Any, where: Any, how: Any, *colours: Any) -> tuple[Any, ...]:
    kinds = [facts.wearing(colour, where) for colour in colours]
    return *(shape(facts, kind, where) for kind in kinds), more(facts, f"sounds {how}", *kinds)


def by_picture(facts: Any, kind: str) -> tuple[Any, ...]:
    other = facts.wearing(facts.picture[kind], "video")
    return shape(facts, kind, "picture"), shape(facts, other, "video")


def numbered(facts: Any) -> tuple[Any, ...]:
    return (shape(facts, facts.printed[facts.number], "picture"),)


STEPS = {
    rf"is there an? {COLOUR} {KIND} in the (video|picture)\?": lambda f, c, k, w: (shape(f, k, w),),
    rf"which way does the {KIND} move in the (video)\?": lambda f, k, w: (shape(f, k, w),),
    rf"what number is next to the {KIND} in the (picture)\?": lambda f, k, w: (shape(f, k, w),),
    rf"(?:does|how many times does) the {COLOUR} shape in the (video|picture) (?:make a )?sound\?": (
        lambda f, c, w: (shape(f, f.wearing(c, w), w),)
    ),
    r"where in the (?:video|picture) is what sounds (\w+)(?:: .*)?\?": lambda f, which: (f.sounding(which),),
    r"what color in the (video|picture) is what sounds (\w+)\?": lambda f, w, which: (
        f.sounding(which),
        shape(f, f.sounding(which), w),
    ),
    r"where in the picture is the spoken number\?": numbered,
    r"where in the video is the shape that is next to the spoken number in the picture\?": numbered,
    rf"which in the (video|picture) sounds (louder|higher), the {COLOUR} or the {COLOUR} shape\?": compared,
    rf"does the {KIND} sound while it moves in the (video)\?": lambda f, k, w: (
        half(f.times(k)[0]),
        shape(f, k, w),
    ),
    rf"which moves while the {KIND} sounds, the {COLOUR} or .*\?": lambda f, k, c: (
        half(f.times(k)[0]),
        shape(f, f.wearing(c, "video"), "video"),
    ),
    rf"is the video color of what sounds (\w+) on an? {KIND} in the picture\?": (
        lambda f, which, k: via_picture(f, which)
    ),
    rf"how many times does the video shape with the color of the {KIND} in the picture sound\?": by_picture,
    r"where in the picture is the video color of what sounds (\w+)\?": via_picture,
    r"which shape in the picture has the video color of what sounds (\w+)\?": via_picture,
}


def worked_out(facts: Any, text: str, forms: Any = ANSWERS) -> Any:
    matches = [(found, answer) for form, answer in forms.items() if (found := re.fullmatch(form, text))]
    assert len(matches) == 1, text
    ((found, answer),) = matches
    return answer(facts, *found.groups())


@pytest.mark.parametrize("name", templates())
def test_every_answer_and_the_way_to_it_are_what_the_words_of_the_question_say(name: str) -> None:
    asked = 0
    for content in contents():
        facts = Facts(content)
        for query in templates()[name].queries(content):
            assert worked_out(facts, query.text) == query.answer, query.text
            if query.steps or len(templates()[name].needs) > 1:
                assert worked_out(facts, query.text, STEPS) == tuple(query.steps), query.text
            asked += 1
    assert asked > 50
