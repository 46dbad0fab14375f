"""Pictures are read by one function; what it can't read is refused by name wherever a picture is given."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from optmerge.cli import run
from optmerge.errors import InputError
from optmerge.evaluate.questions import read_picture


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A PNG whose text unpacks to more than Pillow allows: Pillow raises a ValueError."""
    path = tmp_path / "bomb.png"
    Image.new("RGB", (4, 4)).save(path)
    whole = path.read_bytes()
    head = whole[: 8 + 25]  # signature and IHDR
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))
    path.write_bytes(head + text + whole[len(head) :])
    return path


def test_a_picture_that_pillow_raises_a_value_error_for_is_refused(bomb: Path) -> None:
    with pytest.raises(InputError, match=r"can't be read[\s\S]*bomb\.png"):
        read_picture(bomb)


@pytest.mark.parametrize("command", ["ask", "omni ask"])
def test_both_ask_commands_refuse_a_picture_alike(
    command: str, bomb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(bomb.parent / "nowhere")
    assert run([*command.split(), model, "--image", str(bomb), "what is it?"]) == 2
    message = capsys.readouterr().err
    assert "error:" in message and "Traceback" not in message
    if command == "ask":  # the other one looks for its model first
        assert "can't be read" in message and "bomb.png" in message


def test_a_picture_too_large_to_be_unpacked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"can't be read[\s\S]*large\.png"):
        read_picture(path)


def test_a_picture_is_turned_as_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("L", (20, 10)).save(path, exif=exif)
    found = read_picture(path)
    assert (found.mode, found.size) == ("RGB", (10, 20))


def test_a_picture_that_isnt_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such picture[\s\S]*none\.png"):
        read_picture(tmp_path / "none.png")
