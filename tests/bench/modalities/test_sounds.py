"""What is heard is what the content says: told from the waveform alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from optmerge.bench.modalities import clips, sounds
from optmerge.bench.modalities.sounds import HIGH, LOUD, LOW, NOISE, RATE, SECONDS, SOFT, TIMBRES
from optmerge.bench.modalities.world import SLOTS, Sound, Voice
from optmerge.bench.tasks.drawn._drawing.shapes import KINDS

SLOT = round(RATE * SECONDS / SLOTS)
CONTENTS = [clips.content("train", index) for index in range(60)]


def heard(sound: Any, seed: int = 0) -> Any:
    return sounds.waveform(random.Random(seed), sound)


def level(wave: Any, width: int = 160) -> Any:
    """Root mean square of each hundredth of a second."""
    return np.sqrt(np.mean(wave[: len(wave) // width * width].reshape(-1, width) ** 2, 1))


def onsets(wave: Any, up: float = 0.03, down: float = 0.012) -> Any:
    """Where it becomes loud after silence, in hundredths of a second."""
    found, sounding = [], False
    for at, now in enumerate(level(wave)):
        if now > up and not sounding:
            found.append(at)
        sounding = now > up or (sounding and now > down)
    return found


def spectrum(wave: Any) -> tuple[Any, ...]:
    """Frequencies in Hz and their strengths."""
    return np.fft.rfftfreq(len(wave), 1 / RATE), np.abs(np.fft.rfft(wave * np.hanning(len(wave))))


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_peak_of_a_notes_spectrum_is_its_timbres_first_partial(kind: str, high: Any) -> None:
    frequencies, strengths = spectrum(sounds.note(Voice(kind, 1, True, high, 0)))
    expected = TIMBRES[kind].partials[0][0] * (HIGH if high else LOW)
    assert abs(frequencies[np.argmax(strengths)] - expected) < 8


def test_no_partial_is_above_what_the_rate_can_carry() -> None:
    highest = max(ratio for timbre in TIMBRES.values() for ratio, _ in timbre.partials)
    assert highest * HIGH * (1 + sounds.DETUNING) < RATE / 2


@pytest.mark.parametrize("kind", KINDS)
def test_loud_and_soft_notes_begin_at_their_levels(kind: str) -> None:
    for loud, expected in ((True, LOUD), (False, SOFT)):
        begun = level(sounds.note(Voice(kind, 1, loud, False, 0)))[2:5].mean()
        assert 0.5 * expected < begun < 1.2 * expected
    assert SOFT * 1.2 < 0.5 * LOUD


def test_as_many_onsets_are_heard_as_notes_and_numbers_and_where_the_content_says() -> None:
    for content in CONTENTS:
        sound = content.sound
        slots = [voice.slot + each for voice in sound.voices for each in range(voice.notes)]
        expected = np.array(sorted([*slots, sound.slot])) * SECONDS / SLOTS * 100
        found = np.array(onsets(heard(sound, content.seed)))
        assert len(found) == len(expected)
        assert np.all((found >= expected - 1) & (found <= expected + 3))


def test_a_note_tells_whose_it_is_and_how_high() -> None:
    """By the nearest of all spectra, as strong in each third of an octave."""

    def bands(wave: Any) -> Any:
        frequencies, strengths = spectrum(wave)
        edges = 130 * 2 ** (np.arange(19) / 3)
        power = [strengths[(frequencies >= a) & (frequencies < a * 2 ** (1 / 3))].sum() for a in edges]
        return np.array(power) / np.linalg.norm(power)

    voices = [Voice(kind, 1, True, high, 0) for kind in KINDS for high in (False, True)]
    known = np.array([bands(sounds.note(voice)) for voice in voices])
    right = []
    for content in CONTENTS:
        wave = heard(content.sound, content.seed)
        for voice in content.sound.voices:
            start = voice.slot * SLOT
            nearest = voices[np.argmax(known @ bands(wave[start : start + SLOT]))]
            right.append((nearest.kind, nearest.high) == (voice.kind, voice.high))
    assert np.mean(right) > 0.95


@pytest.mark.parametrize("number", sounds.FORMANTS)
def test_a_spoken_number_glides_from_its_first_formants_to_its_last(number: int) -> None:
    word = sounds.spoken(number, 120)
    for part, which in ((word[: RATE // 20], 0), (word[-RATE // 10 :], 1)):
        frequencies, strengths = spectrum(part)
        for formant in sounds.FORMANTS[number]:
            near = np.abs(frequencies - formant[which]) < 130
            assert strengths[near].max() > 0.25 * strengths.max()


def test_all_numbers_sound_different() -> None:
    spectra = [spectrum(sounds.spoken(number, 120))[1] for number in sounds.FORMANTS]
    alike = np.corrcoef(spectra) - np.eye(len(spectra))
    assert alike.max() < 0.8


def test_between_the_notes_there_is_only_noise() -> None:
    wave = heard(Sound((Voice("star", 1, True, True, 9),), 1, 6))
    quiet = wave[: 6 * SLOT]
    assert np.sqrt(np.mean(quiet**2)) == pytest.approx(NOISE, rel=0.05)


def test_a_waveform_has_its_length_and_never_clips() -> None:
    for content in CONTENTS:
        wave = heard(content.sound, content.seed)
        assert wave.dtype == np.float32 and wave.shape == (RATE * SECONDS,)
        assert np.abs(wave).max() < 1
