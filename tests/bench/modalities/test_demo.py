"""The story of a clip as a page: whole, true, and the product's own work."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from optmerge.bench import records
from optmerge.bench.modalities import clips
from optmerge.bench.modalities.demo import make_page, page, story
from optmerge.bench.modalities.demo.story import CLIP, Exchange, Story
from optmerge.bench.modalities.sounds import RATE
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.world import MODALITIES
from optmerge.cli import run as command
from optmerge.errors import printable, readable
from optmerge.evaluate.answering import WORKED_TOKENS
from optmerge.evaluate.questions import read_picture
from optmerge.omni.media import read_audio, read_video

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Text, media and structure of a page; refuses elements that aren't closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def sources(self, *tags: str) -> list[str]:
        found = [attrs.get("src") or attrs.get("srcset") for tag, attrs in self.tags if tag in tags]
        return [each for each in found if each]


@pytest.fixture(scope="module")
def told(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, make_page.run(out, zoo=trained[0])


@pytest.fixture(scope="module")
def shown(told: tuple[Path, Story]) -> Page:
    return Page((told[0] / "index.html").read_text("utf-8"))


def test_by_default_one_clip_is_asked_for_every_combination(told: tuple[Path, Story]) -> None:
    _, one = told
    assert [each.question.needs for each in one.exchanges] == list(NEEDS)
    assert (one.number, one.method, one.scale) == (CLIP, *make_page.METHOD.values())


@pytest.mark.slow
def test_by_default_the_best_merge_of_the_shipped_models_answers_as_usual(tmp_path: Path) -> None:
    *experts, merged = make_page.run(tmp_path).right
    assert max(experts) < merged == 4  # of 6: docs/omni.md has 66 % for the whole test


def test_every_combination_of_modalities_is_asked_for_once_by_what_is_hardest_to_guess() -> None:
    for index in range(20):
        content = clips.content("test", index)
        asked, there = story.questions(content), {each.needs for each in clips.asked(content)}
        assert [each.needs for each in asked] == [needs for needs in NEEDS if needs in there]
        for each in asked:
            rivals = [one.chance for one in clips.asked(content) if one.needs == each.needs]
            assert each.chance == min(rivals)


def test_the_files_hold_the_clip_as_it_is(told: tuple[Path, Story]) -> None:
    out, one = told
    frames = np.stack([np.asarray(each) for each in read_video(out / "film.mkv", 8)])
    assert np.array_equal(frames, one.clip.frames)
    assert read_picture(out / "picture.png").tobytes() == one.clip.picture.tobytes()
    assert np.abs(read_audio(out / "sound.wav", RATE) - one.clip.waveform).max() < 1e-4


def test_the_page_holds_its_media_and_asks_for_nothing_else(shown: Page, told: tuple[Path, Story]) -> None:
    media = [base64.b64decode(each.partition(",")[2]) for each in shown.sources("img", "audio", "source")]
    out, one = told
    assert (out / "sound.wav").read_bytes() in media and (out / "picture.png").read_bytes() in media
    pictures = [Image.open(io.BytesIO(each)) for each in media if each[:4] == b"\x89PNG"]
    stills = [np.asarray(each) for each in pictures if getattr(each, "n_frames", 1) == 1]
    for frame in one.clip.frames:
        assert any(np.array_equal(frame, still) for still in stills)
    [playing] = [each for each in pictures if getattr(each, "n_frames", 1) > 1]
    assert playing.info["loop"] == 0
    text = (out / "index.html").read_text("utf-8")
    assert "http://" not in text and "https://" not in text and "<script" not in text
    assert all(each.startswith("data:") for each in shown.sources("img", "audio", "source"))
    assert not any(tag in ("link", "script", "iframe") for tag, _ in shown.tags)


def test_the_page_names_every_expert_the_method_and_the_weights(
    shown: Page, told: tuple[Path, Story], trained: Any
) -> None:
    text = " ".join(shown.text)
    for name in ("sound expert", "video expert", "picture expert", "merged", "optmerge", "scale 1"):
        assert name in text
    for folder in ("base", "start", *MODALITIES):
        assert records.weights_hash(trained[0] / folder) in text
    assert records.weights_hash(told[0] / "merged") in text
    assert records.versions()["torch"] in text


def test_the_page_shows_each_question_with_the_truth_and_every_answer(
    shown: Page, told: tuple[Path, Story]
) -> None:
    _, one = told
    text = [" ".join(each.split()) for each in shown.text]
    for exchange in one.exchanges:
        start = text.index(exchange.question.text)
        end = start + next(n for n, words in enumerate(text[start:]) if words.startswith("merged"))
        between = text[start : end + 6]
        assert exchange.question.answers[0] in between
        assert all((printable(said) or "–") in " ".join(between) for said in exchange.said)
    cells = [attrs["class"] for tag, attrs in shown.tags if tag == "div" and attrs.get("class")]
    marks = [str(each).split()[0] for each in cells if str(each).split()[0] in ("right", "wrong")]
    assert marks == [("wrong", "right")[right] for each in one.exchanges for right in each.right]


def test_the_merged_model_says_what_omni_ask_says(
    told: tuple[Path, Story], capsys: pytest.CaptureFixture[str]
) -> None:
    out, one = told
    given = [
        f"--{modality}={out / name}"
        for modality, name in [("image", "picture.png"), ("audio", "sound.wav"), ("video", "film.mkv")]
    ]
    asked = [each.question.text for each in one.exchanges]
    capsys.readouterr()
    assert command(["omni", "ask", str(out / "merged"), *given, *asked, f"--longest={WORKED_TOKENS}"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{readable(each.said[-1])}\n" for each in one.exchanges)
    assert printed.err == ""  # nothing of the clip is left out or resampled


def test_what_models_say_is_text_and_no_markup(told: tuple[Path, Story]) -> None:
    _, one = told
    said = '<b class="right">&amp;</b><script>alert(1)</script>'
    exchanges = [Exchange(each.question, (said,) * 4) for each in one.exchanges]
    hostile = Page(page.html(replace(one, exchanges=tuple(exchanges), method="<i>", merged="a & b")))
    assert " ".join(hostile.text).count(said) == 4 * len(exchanges)
    assert not any(tag == "script" for tag, _ in hostile.tags)


def test_right_answers_are_counted(told: tuple[Path, Story]) -> None:
    _, one = told
    wrong = "nothing of the kind"
    exchanges = [
        Exchange(
            each.question,
            (wrong, each.question.answers[0] if n % 2 else "", wrong, f"{each.question.answers[0]}."),
        )
        for n, each in enumerate(one.exchanges)
    ]
    made = replace(one, exchanges=tuple(exchanges))
    assert made.right == (0, 3, 0, 6)
    text = " ".join(" ".join(Page(page.html(made)).text).split())
    for right, speaker in zip((0, 3, 0, 6), made.speakers, strict=True):
        assert f"{right} of 6 {speaker.name}" in text


@pytest.mark.slow
@pytest.mark.usefixtures("short_answers")
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "ties", "--set", "scale=0.7"], "0.7"),
        pytest.param(["--method", "damc"], "damc", marks=pytest.mark.slow),
    ],
)
def test_another_method_and_clip_can_be_told(
    more: list[str], words: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["omni", "demo", "--zoo", str(trained[0]), "--out", str(tmp_path / "out")]
    assert command([*arguments, "--clip", "5", *more]) == 0
    assert "merged: " in capsys.readouterr().out
    assert words in " ".join(Page((tmp_path / "out/index.html").read_text("utf-8")).text)


def test_a_missing_zoo_says_what_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["omni", "demo", "--zoo", str(tmp_path / "zoo"), "--out", str(tmp_path / "out")]) == 2
    assert "optmerge omni train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
