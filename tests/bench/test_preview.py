"""The contact sheet shows each scene with what is asked about it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from PIL import Image

from optmerge.bench import tasks as registry
from optmerge.bench.preview import contact_sheet

QUESTION, ANSWER, CAPTION = (0, 0, 0), (0, 100, 30), (90, 90, 90)


def sheet(tmp_path: Path, captions: bool = False) -> Image.Image:
    path = tmp_path / "sheet.png"
    contact_sheet(registry.get("vqa"), "validation", 3, path, rows=2, columns=3, captions=captions)
    with Image.open(path) as file:
        return file.convert("RGB")


def below(picture: Image.Image) -> list[Counter[object]]:
    """For each of the six scenes, how many pixels of each colour stand below it."""
    width, height = picture.width // 3, picture.height // 2
    corners = [(index % 3 * width, index // 3 * height + 8 + 224) for index in range(6)]
    boxes = [(left, top, left + width, top + height - 232) for left, top in corners]
    return [Counter({colour: n for n, colour in picture.crop(box).getcolors(1 << 20) or ()}) for box in boxes]


def test_every_scene_is_on_the_sheet_in_its_place(tmp_path: Path) -> None:
    picture = sheet(tmp_path)
    width, height = picture.width // 3, picture.height // 2
    for index in range(6):
        image = (
            registry.drawn()["vqa"]
            .scene("validation", index, 3)
            .image.resize((224, 224), Image.Resampling.NEAREST)
        )
        left, top = index % 3 * width + 8, index // 3 * height + 8
        assert picture.crop((left, top, left + 224, top + 224)).tobytes() == image.tobytes()


def test_question_and_answer_stand_below_every_scene_in_their_colours(tmp_path: Path) -> None:
    for colours in below(sheet(tmp_path)):
        assert colours[QUESTION] and colours[ANSWER]


def test_a_caption_and_its_answer_follow_every_question_on_request(tmp_path: Path) -> None:
    plain, captioned = (below(sheet(tmp_path, captions=captions)) for captions in (False, True))
    for before, after in zip(plain, captioned, strict=True):
        for colour in (CAPTION, ANSWER):
            assert after[colour] > before[colour]
        assert after[QUESTION] >= before[QUESTION] > 0
