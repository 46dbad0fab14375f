"""A contact sheet: some clips below each other, each with its frames, sound, picture and questions.

The waveform and the spectrogram lie below the frames, so that what is above each other is at the same time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from optmerge.bench.modalities.clips import Clip, clip
from optmerge.bench.modalities.sights import FRAMES
from optmerge.bench.modalities.sounds import RATE
from optmerge.bench.tasks import SIDE, Split
from optmerge.bench.tasks.drawn._drawing.fonts import font
from optmerge.omni.media import Wave

_MARGIN, _GAP, _LINE, _FONT = 10, 4, 14, font("sans", 11)
_WIDE = FRAMES * SIDE
_WAVE, _SPECTRUM = 60, 128
"""Heights in pixels."""
_PICTURE = SIDE + _GAP + _WAVE + _GAP + _SPECTRUM
"""The picture is as tall as all that is left of it."""
_SECOND = 520
"""Where the second column of questions begins, in pixels; the longer ones come last."""
_INITIALS = {"audio": "A", "video": "V", "image": "I"}
_WIDTH = _WIDE + _GAP + _PICTURE
_QUESTION, _ANSWER, _NEEDS = "black", (0, 100, 30), (130, 130, 130)
_WINDOW, _FLOOR = 512, -60.0
"""Samples under the spectrogram's window; the level in dB, below the highest, that is drawn white."""


def contact_sheet(split: Split, seed: int, path: Path, *, clips: int = 4) -> None:
    """Writes the first clips of a split as a PNG file.

    Args:
        split: whose clips.
        seed: as in `clips.clip`.
        path: the file; an existing one is replaced.
        clips: how many.
    """
    made = [clip(split, index, seed) for index in range(clips)]
    lines = max(_lines(each) for each in made)
    height = _PICTURE + _GAP + lines * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (_WIDTH + 2 * _MARGIN, clips * height), "white")
    for index, each in enumerate(made):
        _put(sheet, each, _MARGIN, index * height + _MARGIN)
    sheet.save(path, format="PNG")


def _lines(each: Clip) -> int:
    """Lines that a clip's questions take, in two columns."""
    return -(-len(each.questions) // 2)


def _put(sheet: Image.Image, each: Clip, left: int, top: int) -> None:
    for number, frame in enumerate(each.frames):
        sheet.paste(Image.fromarray(frame), (left + number * SIDE, top))
    pen = ImageDraw.Draw(sheet)
    for number in range(1, FRAMES):
        pen.line((left + number * SIDE, top, left + number * SIDE, top + SIDE - 1), "black")
    below = top + SIDE + _GAP
    sheet.paste(drawn_wave(each.waveform, (_WIDE, _WAVE)), (left, below))
    sheet.paste(spectrogram(each.waveform, (_WIDE, _SPECTRUM)), (left, below + _WAVE + _GAP))
    picture = each.picture.resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST)
    sheet.paste(picture, (left + _WIDE + _GAP, top))
    _write(pen, each, left, top + _PICTURE + _GAP)


def _write(pen: ImageDraw.ImageDraw, each: Clip, left: int, top: int) -> None:
    """The questions, column by column."""
    for number, question in enumerate(each.questions):
        column, line = divmod(number, _lines(each))
        at = (float(left + column * _SECOND), top + line * _LINE)
        for words, colour in (
            (f"{'+'.join(_INITIALS[need] for need in question.needs)} {question.family}:  ", _NEEDS),
            (f"{question.text}  ", _QUESTION),
            (question.answers[0], _ANSWER),
        ):
            pen.text(at, words, colour, _FONT)
            at = (at[0] + _FONT.getlength(words), at[1])


def drawn_wave(wave: Wave, size: tuple[int, int]) -> Image.Image:
    """A waveform from -1 at the bottom to 1 at the top, of that width and height in pixels."""
    wide, tall = size
    image = Image.new("RGB", size, (240, 240, 240))
    pen = ImageDraw.Draw(image)
    for column, part in enumerate(np.array_split(wave, wide)):
        high, low = (round((1 - value) / 2 * (tall - 1)) for value in (part.max(), part.min()))
        pen.line((column, high, column, low), (40, 75, 160))
    return image


def spectrogram(wave: Wave, size: tuple[int, int]) -> Image.Image:
    """Levels from 0 Hz at the bottom to half the rate at the top, the darker the louder; a line each kHz."""
    wide, tall = size
    padded = np.pad(wave, _WINDOW // 2)
    starts = np.linspace(0, len(wave) - 1, wide).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[starts] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows))[:, 1:] ** 2
    level = 10 * np.log10(power / power.max() + 1e-12)
    grey = 255 * np.clip(level / _FLOOR, 0, 1)
    image = Image.fromarray(grey.T[::-1].astype(np.uint8)).resize(size, Image.Resampling.BOX).convert("RGB")
    pen = ImageDraw.Draw(image)
    for frequency in range(1000, RATE // 2, 1000):
        row = round(tall * (1 - 2 * frequency / RATE))
        pen.line((0, row, 6, row), (218, 36, 42))
    return image
