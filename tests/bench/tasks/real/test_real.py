"""Rows and media as the data sets have them, made tiny; whatever is wrong is named with its file and row."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optmerge.bench.tasks.real import avqa, music_avqa
from optmerge.bench.tasks.real._rows import heard, seen
from optmerge.bench.trials.examine import score
from optmerge.errors import InputError
from worlds.videos import COLOURS, encode

AVQA = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"],
    "answer": 1,
    "question_relation": "View",
    "question_type": "Happening",
}
MUSIC = {
    "video_id": "00000272",
    "question_id": 50,
    "type": '["Audio-Visual", "Temporal"]',
    "question_content": "Where is the <FL> sounding instrument?",
    "templ_values": '["first"]',
    "question_deleted": 0,
    "anser": "left",
}
SETS = {"avqa": (avqa, AVQA, "video_name"), "music": (music_avqa, MUSIC, "video_id")}
each_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes rows, and an empty file for each row's video; returns what `load` takes."""

    def written(*rows: Any, media: bool = True) -> tuple[Any, ...]:
        for row in rows if media else ():
            (tmp_path / f"{row.get('video_name', row['video_id'])}.mp4").touch()
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows), "utf-8")
        return path, tmp_path

    return written


def test_an_avqa_row_is_a_question_with_lettered_choices(write: Any) -> None:
    both = {**AVQA, "question_relation": "Both", "answer": 3, "question_type": "Come From"}
    one, other = list[Any](avqa.load(*write(AVQA, both)))
    assert one.question.text == (
        "What happened in the video? "
        "(A) motorboat (B) Yacht consignment (C) Sailboat set sail (D) Consignment car"
    )
    assert (one.question.answers, one.question.needs, one.question.family) == (
        ("B",),
        ("video",),
        "Happening",
    )
    assert (other.question.answers, other.question.needs) == (("D",), ("audio", "video"))
    assert one.question.chance == 0.25


@pytest.mark.parametrize(
    "said", ["B", "(B)", "b)", "Yacht consignment", "yacht consignment.", "The answer is B"]
)
def test_avqa_takes_the_right_choice_by_letter_or_words(write: Any, said: Any) -> None:
    (item,) = avqa.load(*write(AVQA))
    assert avqa.TASK.metric(said, item.question) == 1
    assert avqa.TASK.metric("motorboat", item.question) == avqa.TASK.metric("A", item.question) == 0
    assert avqa.TASK.metric("", item.question) == 0


def test_a_music_avqa_row_is_a_question_with_its_words_filled_in(write: Any) -> None:
    two = {
        **MUSIC,
        "type": '["Audio", "Comparative"]',
        "question_content": "Is the <Object> louder than the <Object>?",
        "templ_values": '["cello", "flute"]',
        "anser": "yes",
    }
    one, other = list[Any](music_avqa.load(*write(MUSIC, two)))
    assert one.question.text == "Where is the first sounding instrument?"
    assert other.question.text == "Is the cello louder than the flute?"
    assert (one.question.family, one.question.needs) == ("temporal", ("audio", "video"))
    assert (other.question.family, other.question.needs) == ("comparative", ("audio",))
    assert music_avqa.TASK.metric("Left.", one.question) == 1
    assert music_avqa.TASK.metric("right", one.question) == 0


def test_music_avqa_counts_may_be_digits(write: Any) -> None:
    (item,) = music_avqa.load(*write({**MUSIC, "anser": "two"}))
    assert music_avqa.TASK.metric("2", item.question) == music_avqa.TASK.metric("two", item.question) == 1


def test_answers_are_scored_by_type_and_in_all(write: Any) -> None:
    kinds = [
        ('["Audio", "Counting"]', 1),
        ('["Audio", "Counting"]', 0),
        ('["Audio", "Comparative"]', 1),
        ('["Visual", "Counting"]', 0),
        ('["Visual", "Counting"]', 1),
    ]
    items = music_avqa.load(*write(*({**MUSIC, "type": kind} for kind, _ in kinds)))
    said = [MUSIC["anser"] if right else "right" for _, right in kinds]
    scores = score(music_avqa.TASK, [item.question for item in items], said)
    assert scores.types == {
        "Audio Comparative": (1.0, 1),
        "Audio Counting": (0.5, 2),
        "Visual Counting": (0.5, 2),
    }
    assert scores.metrics == {"exact_match": 0.6}


WRONG = [
    ("avqa", {"answer": 4}, "answer 4"),
    ("avqa", {"answer": "1"}, "answer"),
    ("avqa", {"multi_choice": ["only one"]}, "multi_choice"),
    ("avqa", {"question_relation": "Smell"}, "question_relation"),
    ("avqa", {"question_text": " "}, "question_text"),
    ("avqa", {"video_name": "../secret"}, "video_name"),
    ("music", {"type": "Audio"}, "type"),
    ("music", {"type": '["Touch", "Counting"]'}, "type"),
    ("music", {"templ_values": "[]"}, "1 placeholders and 0 words"),
    ("music", {"templ_values": '["first", "last"]'}, "1 placeholders and 2 words"),
    ("music", {"anser": None}, "anser"),
    ("music", {"video_id": "a/../../b"}, "video_id"),
]


@pytest.mark.parametrize(("name", "change", "told"), WRONG)
def test_a_corrupt_row_is_named(write: Any, name: str, change: Any, told: Any) -> None:
    module, row, _ = SETS[name]
    path, media = write(row)
    path.write_text(json.dumps([row, {**row, **change}]), "utf-8")
    with pytest.raises(InputError) as raised:
        module.load(path, media)
    assert "rows.json row 2" in str(raised.value) and told in str(raised.value)


@each_set
def test_a_row_that_lacks_a_name_is_named(write: Any, name: str) -> None:
    module, row, key = SETS[name]
    path, media = write(row)
    path.write_text(json.dumps([row, row, {k: v for k, v in row.items() if k != key}]), "utf-8")
    with pytest.raises(InputError, match=rf"row 3\.{key}"):
        module.load(path, media)


@each_set
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '"rows"', "\udcff"])
def test_what_is_no_annotation_file_is_refused(write: Any, name: str, text: str) -> None:
    module, row, _ = SETS[name]
    path, media = write(row)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"rows\.json"):
        module.load(path, media)


@each_set
def test_no_annotation_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        SETS[name][0].load(tmp_path / "nowhere.json", tmp_path)


@each_set
def test_a_missing_video_is_named_with_its_row_and_the_others_counted(write: Any, name: str) -> None:
    module, row, key = SETS[name]
    path, media = write(row)
    path.write_text(json.dumps([row, {**row, key: "gone"}, {**row, key: "lost"}]), "utf-8")
    with pytest.raises(InputError) as raised:
        module.load(path, media)
    assert "rows.json row 2" in str(raised.value) and "gone" in str(raised.value)
    assert "2 of 3 rows" in str(raised.value)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_sound_and_pictures_come_out_of_a_video(write: Any, tmp_path: Path, ending: Any) -> None:
    path, media = write(MUSIC, media=False)
    encode(tmp_path / f"{MUSIC['video_id']}{ending}", seconds=2.0, pitch=440.0)
    (item,) = music_avqa.load(path, media)
    wave = heard(item, 16_000)
    assert wave.dtype == np.float32 and abs(len(wave) - 32_000) < 2_100  # a codec pads by a block or two
    middle = wave[8_000:24_000]
    strengths = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(strengths) - 440) <= 2
    assert 0.1 < np.sqrt(np.mean(middle**2)) < 0.25  # half of what the left side alone has, or near
    pictures = [np.asarray(picture).mean((0, 1)) for picture in seen(item, 8)]
    assert len(pictures) == 8
    for number, mean in enumerate(pictures):
        assert np.abs(mean - COLOURS[number // 2]).max() < 30


def test_frames_are_evenly_spread(tmp_path: Path, write: Any) -> None:
    path, media = write(AVQA, media=False)
    encode(tmp_path / f"{AVQA['video_name']}.mp4", seconds=4.0)
    (item,) = avqa.load(path, media)
    shown = [
        np.argmin([np.abs(np.asarray(p).mean((0, 1)) - c).sum() for c in COLOURS]) for p in seen(item, 4)
    ]
    assert shown == [0, 1, 2, 3]
    assert all(one <= other for one, other in pairwise(shown))


def test_unreadable_media_are_named_with_their_row(write: Any, tmp_path: Path) -> None:
    path, media = write(AVQA, media=False)
    video = tmp_path / f"{AVQA['video_name']}.mp4"
    video.write_bytes(b"this was never a video" * 100)
    (item,) = avqa.load(path, media)
    for read in (lambda: heard(item, 16_000), lambda: seen(item, 8)):
        with pytest.raises(InputError) as raised:
            read()
        assert video.name in str(raised.value) and "rows.json row 1" in str(raised.value)


def test_a_video_without_sound_and_one_without_pictures_are_named_with_their_row(
    write: Any, tmp_path: Path
) -> None:
    path, media = write(AVQA, media=False)
    encode(tmp_path / f"{AVQA['video_name']}.mp4", pitch=None, seconds=0.5)
    (item,) = avqa.load(path, media)
    with pytest.raises(InputError, match=r"no sound[\s\S]*rows\.json row 1"):
        heard(item, 16_000)
    assert len(seen(item, 3)) == 3
    encode(item.video, frames_a_second=None, seconds=0.5)
    with pytest.raises(InputError, match=r"no video[\s\S]*rows\.json row 1"):
        seen(item, 3)
