"""Sound and video from files, as the towers' extractors take them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optmerge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Wave = NDArray[np.float32]
"""A waveform of one channel, (samples,), in [-1, 1]."""

UNKNOWN = 0x7FFF_0000
"""Sizes in a RIFF header from this one on mean that the writer didn't know the size."""
TIMED = ("matroska", "mov")
"""Formats, by FFmpeg's names, whose headers state their duration; FFmpeg guesses that of others."""


class MediaWarning(UserWarning):
    """An item is changed before the model gets it: resampled, or cut off after the encoder's window."""


def read_audio(path: Path, rate: int, longest: float | None = None) -> Wave:
    """The sound in an audio or video file, its channels averaged.

    Args:
        path: any format that FFmpeg knows.
        rate: samples a second of the result; a file of another rate is resampled, with a warning.
        longest: seconds after which the rest is left out, with a warning; None for no limit.

    Raises:
        InputError: no such file, no sound in it, or damage before the part that is left out.
    """
    av = _pyav()
    blocks: list[Wave] = []
    limit = None if longest is None else round(longest * rate)
    samples = 0
    with _opened(path, "sound") as container:
        stream = _first(container.streams.audio, "sound", path)
        if stream.rate != rate:
            told = f"{path}: resampled from {stream.rate} Hz to {rate} Hz"
            warnings.warn(told, MediaWarning, stacklevel=2)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        for frame in _frames(container, stream, "sound", path):
            for block in resampler.resample(frame):
                blocks.append(block.to_ndarray()[0])
                samples += len(blocks[-1])
            if limit is not None and samples > limit:
                break
    if not samples:
        raise InputError("the sound is empty", where=path)
    return heard(np.concatenate(blocks), rate, longest, path)


def heard(wave: Wave, rate: int, longest: float | None, where: object) -> Wave:
    """The first `longest` seconds of a sound; a warning tells of a rest that is left out.

    Args:
        wave: (samples,).
        rate: samples a second.
        longest: seconds; None for all of the sound.
        where: name of the sound in messages.

    Raises:
        InputError: the sound is empty, or not one channel of finite numbers.
    """
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise InputError(
            "not a sound",
            where=where,
            got=f"shape {wave.shape}",
            expected="one channel of finite samples",
            hint="average the channels; leave out what is empty",
        )
    limit = len(wave) if longest is None else round(longest * rate)
    if len(wave) > limit:
        told = f"{where}: only the first {longest:g} s are heard"
        warnings.warn(told, MediaWarning, stacklevel=2)
    return wave[:limit]


def read_video(path: Path, frames: int) -> list[Image]:
    """Pictures of a video at the middles of equal parts.

    Args:
        path: any format that FFmpeg knows.
        frames: number of pictures; some come twice if the video has fewer.

    Raises:
        InputError: no such file, no video in it, or the file is damaged.
    """
    with _opened(path, "video") as container:
        stream = _first(container.streams.video, "video", path)
        packets = _packets(container, "video", path)
        there = sum(packet.size > 0 and packet.stream_index == stream.index for packet in packets)
    wanted = spread(max(1, there), frames)
    found: dict[int, Image] = {}
    with _opened(path, "video") as container:
        for number, frame in enumerate(_frames(container, container.streams.video[0], "video", path)):
            if number in wanted:
                found[number] = frame.to_image()
            if number >= wanted[-1]:
                break
    if not found:
        raise InputError("the video is empty", where=path)
    last = max(found)  # there may be fewer frames than packets
    return [found.get(number, found[last]) for number in wanted]


def spread(there: int, frames: int) -> list[int]:
    """Numbers of `frames` frames out of `there`: the middles of equal parts, in order."""
    return [min(there - 1, (2 * part + 1) * there // (2 * frames)) for part in range(frames)]


def chosen(pictures: Sequence[Any], frames: int, where: object) -> list[Any]:
    """`frames` pictures of a video that is given as pictures, at the middles of equal parts.

    Raises:
        InputError: the video has no pictures.
    """
    if not hasattr(pictures, "__len__") or not len(pictures):
        raise InputError(
            "the video is empty",
            where=where,
            got=type(pictures).__name__,
            expected="a sequence of pictures",
            hint="give each video as a sequence of its own",
        )
    return [pictures[number] for number in spread(len(pictures), frames)]


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise InputError("PyAV isn't installed", hint="pip install 'optmerge[omni]'") from None
    return av


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    av = _pyav()
    if not path.is_file():
        raise InputError("no such file", where=path)
    try:
        with av.open(str(path)) as container:
            _check_size(path, what)
            yield container
    except (
        av.FFmpegError,
        ValueError,
        OverflowError,
    ) as problem:  # the latter of numbers no file should hold
        raise InputError(f"the {what} can't be read", where=path, got=problem) from None


def _first(streams: Sequence[Any], what: str, path: Path) -> Any:
    """The first of these streams.

    Raises:
        InputError: there is no stream, or FFmpeg can't decode the first one.
    """
    if not streams:
        raise InputError(f"the file holds no {what}", where=path)
    if streams[0].codec_context is None:
        raise InputError(f"the {what} is of an unknown kind", where=path, hint="convert it with FFmpeg")
    return streams[0]


def _check_size(path: Path, what: str) -> None:
    """Refuses a RIFF file (WAV, AVI) that is shorter than its header says.

    Raises:
        InputError: the file is cut off.
    """
    with path.open("rb") as file:
        start = file.read(8)
    size, stated = path.stat().st_size, 8 + int.from_bytes(start[4:], "little")
    # Some writers count these eight bytes twice. Writers into a pipe state more than there can be.
    if start[:4] == b"RIFF" and size + 8 < stated < UNKNOWN:
        raise _damaged(what, path, f"{size} bytes", f"{stated} bytes, as its header says")


def _packets(container: Any, what: str, path: Path) -> Iterator[Any]:
    """Packets of all streams to the end of the file, since any stream may be cut off.

    Raises:
        InputError: a packet is cut off, or the file ends long before its header says.
    """
    end = 0.0
    for packet in container.demux():
        # The last block of a WAV is marked too, unless the header states its size; see `_check_size`.
        if packet.is_corrupt and container.format.name != "wav":
            raise _damaged(what, path, f"a part that is cut off after {end:.1f} s")
        yield packet
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    stated = (container.duration or 0) / 1e6
    if container.format.name.startswith(TIMED) and end < 0.95 * stated - 0.5:
        raise _damaged(what, path, f"an end after {end:.1f} s", f"{stated:.1f} s, as its header says")


def _frames(container: Any, stream: Any, what: str, path: Path) -> Iterator[Any]:
    """Frames of a stream to its end.

    Raises:
        InputError: the file is damaged.
    """
    av = _pyav()
    end = 0.0
    for packet in _packets(container, what, path):
        if packet.stream_index != stream.index:
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError as problem:
            raise _damaged(what, path, f"{problem.strerror} after {end:.1f} s") from None
        for frame in frames:
            end = frame.time or end
            yield frame


def _damaged(what: str, path: Path, got: str, expected: str = "a file that is whole") -> InputError:
    hint = "fetch it again; FFmpeg can save what is left of it"
    return InputError(f"the {what} is damaged or cut off", where=path, got=got, expected=expected, hint=hint)
