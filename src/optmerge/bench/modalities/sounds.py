"""Sounds as waveforms, in which every kind of shape has a timbre of its own.

The timbres are those of things named like the shapes, or near: a flute's round tone for the circle, a square
wave, the musical triangle, a sparkle of octaves for the star, a plucked string for the cross, and two tones
as of a ring modulator for the ring. Numbers are syllables of two formants that glide, over a voice's pulses.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optmerge.bench.modalities.world import SLOTS, Sound, Voice
from optmerge.omni.media import Wave

RATE = 16_000
"""Samples a second, as speech encoders want it."""
SECONDS = 2.0
LOUD, SOFT = 0.22, 0.055
"""Root mean square of a note's beginning, 12 dB apart; full scale is 1."""
LOW, HIGH = 260.0, 620.0
"""A note's pitch in Hz, not an octave apart, so that none is the other's overtone."""
DETUNING = 0.04
"""Largest share by which a clip's pitches are off."""
NOISE = 0.003
"""Root mean square of what is always heard."""
_SLOT = round(RATE * SECONDS / SLOTS)
_NOTE, _ATTACK, _RELEASE, _DELAY = 0.165, 0.004, 0.012, 0.02
"""Seconds: of a note, of its beginning and end, and the most that a clip's notes are late."""
_SPOKEN = 0.34


@dataclass(frozen=True)
class Timbre:
    """Parts of a note.

    Args:
        partials: (multiple of the pitch, strength), the strongest first.
        fading: seconds in which it fades to a third; 0 for a tone that stays.
    """

    partials: tuple[tuple[float, float], ...]
    fading: float = 0.0


TIMBRES: Mapping[str, Timbre] = {
    "circle": Timbre(((1, 1.0),)),
    "square": Timbre(((1, 1.0), (3, 1 / 3), (5, 1 / 5), (7, 1 / 7), (9, 1 / 9))),
    "triangle": Timbre(((2.76, 1.0), (1, 0.5), (5.4, 0.7), (8.93, 0.4)), 0.09),
    "star": Timbre(((4, 1.0), (1, 0.6), (2, 0.7), (8, 0.8))),
    "cross": Timbre(((1, 1.0), (2, 0.8), (3, 0.65), (4, 0.5), (5, 0.4), (6, 0.3)), 0.07),
    "ring": Timbre(((1.4, 1.0), (0.6, 0.9))),
}

FORMANTS: Mapping[int, tuple[tuple[float, float], tuple[float, float]]] = {
    1: ((420, 700), (800, 1500)),
    2: ((330, 320), (1900, 950)),
    3: ((300, 290), (1350, 2400)),
    4: ((620, 480), (900, 1250)),
}
"""Number → first formant at the beginning and the end, then the second, in Hz: w-u-n, t-oo, thr-ee, f-o-r."""


def waveform(rng: random.Random, sound: Sound) -> Wave:
    """The sound: `RATE`·`SECONDS` samples between -1 and 1."""
    noise = np.random.default_rng(rng.getrandbits(32))
    wave = noise.standard_normal(round(RATE * SECONDS), np.float32) * np.float32(NOISE)
    late = round(RATE * rng.uniform(0, _DELAY))
    for voice in sound.voices:
        one = note(voice, 1 + rng.uniform(-DETUNING, DETUNING))
        for each in range(voice.notes):
            _add(wave, one, late + (voice.slot + each) * _SLOT)
    _add(wave, spoken(sound.number, rng.uniform(95, 190)), late + sound.slot * _SLOT)
    return wave


def note(voice: Voice, detuned: float = 1.0) -> Wave:
    """One note of a voice."""
    timbre = TIMBRES[voice.kind]
    time = _time(_NOTE)
    pitch = (HIGH if voice.high else LOW) * detuned
    ratios, strengths = (np.array(each, np.float32) for each in zip(*timbre.partials, strict=True))
    tone = strengths @ np.sin(np.float32(2 * np.pi * pitch) * ratios[:, None] * time)
    level = (LOUD if voice.loud else SOFT) * np.sqrt(2 / np.sum(strengths**2))
    fading = np.exp(-time / np.float32(timbre.fading)) if timbre.fading else np.float32(1)
    return _edged(np.float32(level) * tone * fading)


def spoken(number: int, pitch: float) -> Wave:
    """A number said by a voice of that pitch in Hz."""
    time = _time(_SPOKEN)
    glide = np.minimum(time / np.float32(0.6 * _SPOKEN), 1)
    tone = np.zeros_like(time)
    for (start, end), strength in zip(FORMANTS[number], (1.0, 0.7), strict=True):
        way = np.cumsum(start + (end - start) * glide, dtype=np.float64) * (2 * np.pi / RATE)
        tone += np.float32(strength) * np.sin(way.astype(np.float32))
    pulses = np.exp(-3 * np.mod(time * np.float32(pitch), 1))  # the throat opens, and what resounds dies away
    return _edged(np.float32(0.3) * tone * pulses)


def _time(seconds: float) -> Wave:
    return np.arange(round(RATE * seconds), dtype=np.float32) / np.float32(RATE)


def _edged(tone: Wave) -> Wave:
    """With a beginning and an end that don't click."""
    for seconds, where in ((_ATTACK, 1), (_RELEASE, -1)):
        ramp = np.linspace(0, 1, round(RATE * seconds), dtype=np.float32)
        tone[::where][: len(ramp)] *= ramp
    return tone


def _add(wave: Wave, tone: Wave, start: int) -> None:
    wave[start : start + len(tone)] += tone
