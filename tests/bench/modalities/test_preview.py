from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from optmerge.bench.modalities import clips, preview
from optmerge.bench.modalities.sounds import RATE
from optmerge.bench.tasks import SIDE


def sheet(tmp_path: Path, number: int = 2) -> Any:
    path = tmp_path / "sheet.png"
    preview.contact_sheet("validation", 3, path, clips=number)
    with Image.open(path) as file:
        return file.convert("RGB")


def test_frames_and_picture_of_every_clip_are_on_the_sheet(tmp_path: Path) -> None:
    shown = sheet(tmp_path)
    height = shown.height // 2
    for index in range(2):
        clip = clips.clip("validation", index, 3)
        top = index * height + 10
        for number, frame in enumerate(clip.frames):
            left = 10 + number * SIDE
            there = np.asarray(shown.crop((left, top, left + SIDE, top + SIDE)))
            assert np.array_equal(there[:, 1:], frame[:, 1:])  # a line parts it from the one before
        side = preview._PICTURE
        left = 10 + len(clip.frames) * SIDE + 4
        picture = clip.picture.resize((side, side), Image.Resampling.NEAREST)
        assert shown.crop((left, top, left + side, top + side)).tobytes() == picture.tobytes()


def test_questions_end_inside_the_sheet(tmp_path: Path) -> None:
    shown = np.asarray(sheet(tmp_path, 10))
    assert np.all(shown[:, -8:] == 255)
    assert np.any(np.all(shown == (0, 100, 30), -1))


def test_a_tone_is_a_dark_line_at_its_frequency_where_it_sounds() -> None:
    time = np.arange(RATE) / RATE
    wave = np.where(time < 0.5, np.sin(2 * np.pi * 3000 * time), 0).astype(np.float32)
    pixels = np.asarray(preview.spectrogram(wave, (200, 128)).convert("L")).astype(int)
    row = round(128 * (1 - 3000 / (RATE / 2)))
    assert pixels[row - 2 : row + 2, 20:90].min() < 20
    assert pixels[:, 110:].min() > 240
    assert pixels[: row - 8, 20:90].min() > 200


def test_a_waveform_is_drawn_as_high_as_it_is() -> None:
    wave = np.full(1000, 0.5, np.float32)
    rows = np.nonzero(np.asarray(preview.drawn_wave(wave, (50, 101))).min((1, 2)) < 200)[0]
    assert set(rows) == {25}
