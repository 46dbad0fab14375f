"""Tiny videos with sound, encoded as the tests need them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 44_100
COLOURS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 30))


def tone(pitch: float, seconds: float) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * pitch * np.arange(round(RATE * seconds)) / RATE)


def encode(
    path: Path, *, seconds: float = 2.0, pitch: float | None = 440.0, frames_a_second: int | None = 10
) -> Path:
    """A video that shows `COLOURS` one after the other, with a stereo tone, loud on the left only.

    Without a pitch it has no sound, without frames it has only sound.
    """
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=frames_a_second) if frames_a_second else None
        audio = file.add_stream("aac", rate=RATE, layout="stereo") if pitch else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            number = round(seconds * frames_a_second)
            for index in range(number):
                colour = COLOURS[index * len(COLOURS) // number]
                pixels = np.full((64, 64, 3), colour, np.uint8)
                file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(video.encode())
        if audio is not None:
            left = tone(pitch, seconds).astype(np.float32)
            samples = np.stack([left, np.zeros_like(left)])
            for start in range(0, len(left), 1024):
                block = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return path
