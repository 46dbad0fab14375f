"""The course of a clip as HTML: film, sound and events above each other, along the same time."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from PIL import Image

from optmerge.bench.modalities import preview
from optmerge.bench.modalities.clips import Clip
from optmerge.bench.modalities.demo.clip_files import data_uri, png
from optmerge.bench.modalities.sounds import SECONDS
from optmerge.bench.modalities.world import HEIGHTS, SLOTS, Actor, Content, Voice
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS

_DRAWN = (896, 64), (896, 128)
"""Width and height in pixels of the waveform and of the spectrogram."""
_TIMES = ("once", "twice", "three times")
_TICKS = 4


def timeline(content: Content, clip: Clip) -> str:
    """Rows of a label and a track; tracks are as wide as the clip is long."""
    return f'<div class="timeline">\n{"".join(_rows(content, clip))}</div>\n'


def _rows(content: Content, clip: Clip) -> Iterator[str]:
    yield _row("", _ruler(), "ruler")
    frames = (_picture(Image.fromarray(frame), f"frame {n}") for n, frame in enumerate(clip.frames, 1))
    yield _row("<b>video</b>, four frames a second", "".join(frames), "frames")
    for height, actor in zip(HEIGHTS, content.film, strict=True):
        yield _row(f"<b>{height}</b> {swatch(actor.colour)} {actor.colour} {actor.kind}", _motion(actor))
    for title, drawn in (
        ("<b>sound</b>, as a wave", preview.drawn_wave(clip.waveform, _DRAWN[0])),
        ("by frequency, 0 to 8 kHz", preview.spectrogram(clip.waveform, _DRAWN[1])),
    ):
        yield _row(title, _picture(drawn, "drawing of the sound"), "drawn")
    sound = content.sound
    for voice in sound.voices:
        yield _row(f"<b>{voice.kind}</b> {_sounds(voice)}", "".join(_notes(voice)))
    said = _bar(sound.slot / SLOTS, 2 / SLOTS, f"“{sound.number}”", "spoken")
    yield _row(f"<b>a voice</b> says the number {sound.number}", said)


def swatch(colour: str) -> str:
    """A spot of a colour."""
    return f'<i class="swatch" style="background:rgb{COLOURS[colour]}"></i>'


def _row(label: str, track: str, kind: str = "events") -> str:
    return f'<div class="label">{label}</div><div class="track {kind}">{track}</div>\n'


def _ruler() -> str:
    marks = (SECONDS * tick / _TICKS for tick in range(_TICKS + 1))
    return "".join(f'<span style="left:{100 * mark / SECONDS:g}%">{mark:g} s</span>' for mark in marks)


def _motion(actor: Actor) -> str:
    if actor.motion is None:
        return _bar(0, 1, "stays where it is", "still")
    words = f"{'→ right' if actor.motion.right else '← left'}, {'far' if actor.motion.far else 'near'}"
    return _bar(0.5 * actor.motion.late, 0.5, words, "moves")


def _sounds(voice: Voice) -> str:
    return f"{_TIMES[voice.notes - 1]}, {'loud' if voice.loud else 'soft'}, {'high' if voice.high else 'low'}"


def _notes(voice: Voice) -> Iterator[str]:
    kind = f"note {'loud' if voice.loud else 'soft'} {'high' if voice.high else 'low'}"
    for note in range(voice.notes):
        yield _bar((voice.slot + note) / SLOTS, 0.85 / SLOTS, "", kind)


def _bar(start: float, length: float, words: str, kind: str) -> str:
    """Position and width of a part of the clip, both as shares of the clip."""
    place = f"left:{100 * start:g}%;width:{100 * length:g}%"
    return f'<span class="bar {kind}" style="{place}">{escape(words)}</span>'


def _picture(picture: Image.Image, words: str) -> str:
    return f'<img src="{data_uri("image/png", png(picture))}" alt="{words}">'
