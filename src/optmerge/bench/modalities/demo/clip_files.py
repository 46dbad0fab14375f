"""A clip as files, such as `optmerge omni ask` takes, and as a page holds it; nothing of it is lost."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from optmerge.bench.modalities.clips import Clip
from optmerge.bench.modalities.sights import FRAMES
from optmerge.bench.modalities.sounds import RATE, SECONDS
from optmerge.bench.modalities.world import Modality
from optmerge.omni.media import Wave

NAMES: Mapping[Modality, str] = {"image": "picture.png", "audio": "sound.wav", "video": "film.mkv"}


def write(clip: Clip, folder: Path) -> dict[Modality, Path]:
    """Writes picture, sound and film into a folder that is there; modality → file."""
    paths = {modality: folder / name for modality, name in NAMES.items()}
    paths["image"].write_bytes(png(clip.picture))
    paths["audio"].write_bytes(wav(clip.waveform))
    _write_film(clip.frames, paths["video"])
    return paths


def png(picture: Image.Image) -> bytes:
    """A PNG file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def animation(frames: NDArray[np.uint8]) -> bytes:
    """A PNG file that plays (frames, height, width, 3) at the clip's pace, again and again."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    data = io.BytesIO()
    pace = round(1000 * SECONDS / FRAMES)
    first.save(data, "PNG", save_all=True, append_images=others, duration=pace, loop=0)
    return data.getvalue()


def wav(sound: Wave) -> bytes:
    """A WAV file of 16 bits a sample, which is finer than the clip's own noise."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return data.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """A file inside a page.

    Args:
        kind: its media type.
        data: its bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _write_film(frames: NDArray[np.uint8], path: Path) -> None:
    """Every pixel as it is, in FFV1."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=round(FRAMES / SECONDS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
