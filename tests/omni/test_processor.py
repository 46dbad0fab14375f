"""Prompts, items and files → inputs; what doesn't fit is refused by name."""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optmerge.errors import CheckpointError, InputError
from optmerge.evaluate.questions import read_picture
from optmerge.omni import OmniProcessor, add_placeholders
from optmerge.omni.media import MediaWarning, read_audio, read_video, spread
from optmerge.omni.prompts import check_counts, expand, placeholders
from worlds import omni as tiny

IMAGE, AUDIO, VIDEO = "<image>", "<audio>", "<video>"


@pytest.fixture(scope="module")
def processor() -> OmniProcessor:
    return OmniProcessor.from_config(tiny.config("clip", "whisper", "frames"), tiny.tokenizer())


@pytest.fixture(scope="module")
def deaf() -> OmniProcessor:
    return OmniProcessor.from_config(tiny.config("clip"), tiny.tokenizer())


def test_each_placeholder_becomes_as_many_tokens_as_its_item_has_embeddings(processor: OmniProcessor) -> None:
    inputs = processor(
        f"a {VIDEO} {IMAGE} b {IMAGE}", images=[tiny.picture(), tiny.picture()], videos=[tiny.clip()]
    )
    ids = {m: processor.towers[m].token_id for m in processor.towers}
    row = inputs["input_ids"][0].tolist()
    a, b = tiny.WORDS.index("a"), tiny.WORDS.index("b")
    assert row == [a, *[ids["video"]] * 4, *[ids["image"]] * 4, b, *[ids["image"]] * 4]


def test_short_sounds_are_short_where_the_encoder_leaves_padding_out() -> None:
    processor = OmniProcessor.from_config(tiny.config("qwen2_audio"), tiny.tokenizer())
    inputs = processor(f"{AUDIO} {AUDIO}", audio=[tiny.sound(0, 0.2), tiny.sound(0, 0.9)])
    lengths = [5, 22]  # 100 steps a second, halved by a convolution and halved again by averaging
    assert int((inputs["input_ids"] == processor.towers["audio"].token_id).sum()) == sum(lengths)


def test_padding_is_on_the_left(processor: OmniProcessor) -> None:
    inputs = processor(["a b c", "d"])
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_tokenizer_without_a_padding_token_takes_its_last_one_or_says_so() -> None:
    words = tiny.tokenizer()
    words.pad_token = None
    processor = OmniProcessor.from_config(tiny.config("clip"), words)
    assert processor("a b c")["input_ids"].shape == (1, 3)
    assert processor(["a b c", "d"])["input_ids"][1].tolist() == [2, 2, tiny.WORDS.index("d")]
    words.pad_token = words.eos_token = None
    assert processor("a")["attention_mask"].tolist() == [[1]]
    with pytest.raises(InputError, match="one prompt at a time"):
        processor(["a b c", "d"])


PIECES = st.lists(
    st.sampled_from(["a", "b", "<", "image>", IMAGE, AUDIO, "<audio", f"{IMAGE}{IMAGE}"]), max_size=8
)


@given(st.lists(PIECES, min_size=1, max_size=3), st.data())
def test_any_prompt_is_expanded_in_order_and_nothing_else_is_touched(
    rows: list[list[str]], data: st.DataObject
) -> None:
    tokens = {"image": IMAGE, "audio": AUDIO}
    texts = [" ".join(row) for row in rows]
    found = [modality for text in texts for modality, _ in placeholders(text, tokens)]
    lengths = {m: [data.draw(st.integers(0, 4)) for _ in range(found.count(m))] for m in tokens}
    check_counts(texts, tokens, {m: len(each) for m, each in lengths.items()})
    expanded = expand(texts, tokens, lengths)
    assert [text.replace(IMAGE, "").replace(AUDIO, "") for text in expanded] == [
        text.replace(IMAGE, "").replace(AUDIO, "") for text in texts
    ]
    whole = "\n".join(expanded)
    assert whole.count(IMAGE) == sum(lengths["image"])
    assert all(token * n in whole for m, token in tokens.items() for n in lengths[m])


@pytest.mark.parametrize(
    ("text", "items", "told"),
    [
        (f"{IMAGE} {IMAGE}", {"images": [0]}, "2 <image> for 1 image"),
        ("what", {"images": [0]}, "0 <image> for 1 image"),
        (f"{IMAGE}", {}, "1 <image> for 0 image"),
        (f"{AUDIO}", {"images": [0]}, "1 <audio> for 0 audio|0 <image> for 1 image"),
        ([f"{IMAGE}", "what"], {"images": [0, 0]}, "1, 0 in prompts 0 to 1"),
    ],
)
def test_placeholders_and_items_that_differ_in_number_are_refused(
    processor: OmniProcessor, text: Any, items: dict[str, Any], told: str
) -> None:
    given = {name: [tiny.picture() for _ in each] for name, each in items.items()}
    with pytest.raises(InputError, match=told):
        processor(text, **given)


def test_a_modality_without_a_tower_is_refused(deaf: OmniProcessor) -> None:
    with pytest.raises(InputError, match="takes no audio"):
        deaf(f"{AUDIO}", audio=tiny.sound())
    with pytest.raises(InputError, match=r"prompt 1[\s\S]*ask a model with a tower for video"):
        deaf(["what", f"{VIDEO} what"])


def test_a_tokenizer_without_the_placeholder_is_refused() -> None:
    words = tiny.tokenizer()
    tower = tiny.tower("clip", token="<nowhere>", token_id=44)
    with pytest.raises(InputError, match="add_placeholders"):
        OmniProcessor(words, {"image": tower})
    ids = add_placeholders(words)
    assert add_placeholders(words) == ids and len(set(ids.values())) == 3


def test_a_folder_without_a_processor_is_refused(tmp_path: Path, processor: OmniProcessor) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "towers/audio/preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="audio tower can't be loaded"):
        OmniProcessor.from_pretrained(tmp_path)
    whole = json.loads((tmp_path / "processor_config.json").read_text())
    for broken in (
        {},
        {"towers": 3},
        {"towers": {"image": 3}},
        {"towers": {"smell": whole["towers"]["image"]}},
    ):
        (tmp_path / "processor_config.json").write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=r"no omni processor|unknown modality"):
            OmniProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no omni processor"):
        OmniProcessor.from_pretrained(tmp_path / "towers")


def test_a_file_says_what_its_samples_say(processor: OmniProcessor, tmp_path: Path) -> None:
    sound = tiny.sound()
    path = tiny.write_wave(tmp_path / "a.wav", sound)
    from_file, from_samples = processor(AUDIO, audio=str(path)), processor(AUDIO, audio=sound)
    assert torch.allclose(from_file["input_features"], from_samples["input_features"], atol=0.02)
    picture = tiny.picture()
    picture.save(tmp_path / "a.png")
    seen = processor(IMAGE, images=tmp_path / "a.png")["pixel_values"]
    assert torch.equal(seen, processor(IMAGE, images=np.asarray(picture))["pixel_values"])


def test_another_rate_and_stereo_are_heard_alike_with_a_notice(tmp_path: Path) -> None:
    times = np.arange(44_100) / 44_100
    path = tiny.write_wave(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * times), 44_100, channels=2)
    with pytest.warns(MediaWarning, match="44100 Hz to 16000 Hz"):
        wave = read_audio(path, 16_000)
    assert abs(len(wave) - 16_000) < 100
    assert np.argmax(np.abs(np.fft.rfft(wave[: 16_000 // 2]))) == 220  # of half a second


def test_what_the_encoder_cannot_hear_is_told(processor: OmniProcessor, tmp_path: Path) -> None:
    path = tiny.write_wave(tmp_path / "long.wav", tiny.sound(0, 1.5))
    for item in (path, tiny.sound(0, 1.5)):
        with pytest.warns(MediaWarning, match="only the first 1 s are heard"):
            processor(AUDIO, audio=item)


def test_frames_are_the_middles_of_equal_parts(tmp_path: Path) -> None:
    assert spread(8, 4) == [1, 3, 5, 7] and spread(3, 6) == [0, 0, 1, 1, 2, 2] and spread(1, 2) == [0, 0]
    path = tiny.write_video(tmp_path / "a.mp4", [20, 40, 60, 80, 100, 120, 140, 160])
    shades = [np.asarray(frame).mean() for frame in read_video(path, 4)]
    assert np.allclose(shades, [40, 80, 120, 160], atol=6)


def test_a_video_file_has_pictures_and_sound(processor: OmniProcessor, tmp_path: Path) -> None:
    path = tiny.write_video(tmp_path / "a.mp4", range(0, 250, 25), tiny.sound(0, 0.8))
    inputs = processor(f"{VIDEO} {AUDIO}", videos=[path], audio=[path])
    assert inputs["pixel_values_videos"].shape[:2] == (1, 8)
    assert inputs["pixel_values_videos"][0, 0].mean() < inputs["pixel_values_videos"][0, -1].mean()


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
@pytest.mark.parametrize("content", [b"", b"no such format", b"RIFF\xff\xff\xff\xffWAVEfmt ", None])
def test_a_file_that_cannot_be_read_is_named(
    processor: OmniProcessor, modality: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "broken.xyz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.xyz"):
        processor(f"<{modality}>", **{tiny.ARGUMENT[modality]: [path]})


def test_files_without_the_asked_for_stream_are_named(processor: OmniProcessor, tmp_path: Path) -> None:
    silent = tiny.write_video(tmp_path / "silent.mp4", [10, 20, 30])
    with pytest.raises(InputError, match=r"holds no sound[\s\S]*silent.mp4"):
        processor(AUDIO, audio=silent)
    blind = tiny.write_wave(tmp_path / "blind.wav", tiny.sound())
    with pytest.raises(InputError, match=r"holds no video[\s\S]*blind.wav"):
        processor(VIDEO, videos=[blind])
    empty = tiny.write_wave(tmp_path / "empty.wav", np.zeros(0))
    with pytest.raises(InputError, match=r"empty[\s\S]*empty.wav|can't be read[\s\S]*empty.wav"):
        processor(AUDIO, audio=empty)


@pytest.mark.parametrize("share", [0.4, 0.7])
@pytest.mark.parametrize(
    ("modality", "name"),
    [("audio", "a.wav"), *product(("audio", "video"), ("a.avi", "a.mkv", "a.mp4"))],
)
def test_a_file_that_is_cut_off_is_refused(modality: str, name: str, share: float, tmp_path: Path) -> None:
    path, sound = tmp_path / name, tiny.sound(0, 4)
    if name.endswith("wav"):
        tiny.write_wave(path, sound)
    else:
        tiny.write_video(
            path, np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)), sound, faststart=True
        )
    read(modality, path)
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"damaged or cut off[\s\S]*next: fetch it again") as problem:
        read(modality, path)
    assert name in str(problem.value)


def test_a_sound_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tiny.write_video(tmp_path / "a.mp4", [10] * 40, tiny.sound(0, 4))
    read("audio", path)
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 8000
    content[middle : middle + 500] = b"\xff" * 500
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or cut off[\s\S]*a.mp4[\s\S]* after [12]\.\d s"):
        read("audio", path)


@pytest.mark.parametrize("stated", [0, 2**31 - 1, 2**32 - 1])
def test_a_wave_file_whose_writer_could_not_state_its_size_is_whole(stated: int, tmp_path: Path) -> None:
    path = tiny.write_wave(tmp_path / "a.wav", tiny.sound())
    whole, content = read_audio(path, tiny.RATE), bytearray(path.read_bytes())
    for place in (4, content.index(b"data") + 4):
        content[place : place + 4] = stated.to_bytes(4, "little")
    path.write_bytes(content)
    assert np.array_equal(read_audio(path, tiny.RATE), whole)


def test_a_wave_file_that_counts_the_first_eight_bytes_twice_is_whole(tmp_path: Path) -> None:
    path = tiny.write_wave(tmp_path / "a.wav", tiny.sound())
    content = path.read_bytes()
    path.write_bytes(content[:4] + len(content).to_bytes(4, "little") + content[8:])
    assert len(read_audio(path, tiny.RATE)) == len(tiny.sound())


def read(modality: str, path: Path) -> object:
    return read_audio(path, tiny.RATE) if modality == "audio" else read_video(path, 5)


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros((2, 100)), np.full(100, np.nan), np.array([np.inf] * 50)]
)
def test_samples_that_are_no_sound_are_refused(processor: OmniProcessor, samples: np.ndarray) -> None:
    with pytest.raises(InputError, match="audio 0"):
        processor(AUDIO, audio=samples)


def test_samples_of_another_rate_are_refused(processor: OmniProcessor) -> None:
    with pytest.raises(InputError, match="8000 Hz"):
        processor(AUDIO, audio=(tiny.sound(), 8000))
    processor(AUDIO, audio=(tiny.sound(), tiny.RATE))


def test_things_that_are_no_pictures_are_refused(processor: OmniProcessor) -> None:
    with pytest.raises(InputError, match="not a picture"):
        processor(IMAGE, images=[{"no": "picture"}])
    with pytest.raises(InputError, match="sequence of its own"):
        processor(VIDEO, videos=[tiny.picture()])
    with pytest.raises(InputError, match="the video is empty"):
        processor(VIDEO, videos=[[]])


@pytest.mark.filterwarnings("ignore::optmerge.omni.media.MediaWarning")
@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.avi", "a.png", "a.gif"])
def test_damaged_files_are_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    whole = tmp_path / name
    noise = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3))
    if name.endswith("wav"):
        tiny.write_wave(whole, tiny.sound())
    elif name.endswith(("png", "gif")):
        tiny.picture().save(whole)
    else:
        tiny.write_video(whole, noise, tiny.sound() if name.endswith("mp4") else None)
    data, generator = whole.read_bytes(), np.random.default_rng(0)
    broken = tmp_path / f"broken-{name}"
    outcomes = []
    for _ in range(40):
        changed = bytearray(data[: generator.integers(1, len(data) + 1)])
        for place in generator.integers(0, len(changed), 8):
            changed[place] = generator.integers(0, 256)
        broken.write_bytes(changed)
        for read in (
            read_picture,
            partial(read_audio, rate=tiny.RATE, longest=1),
            partial(read_video, frames=3),
        ):
            try:
                read(broken)
                outcomes.append("read")
            except InputError as problem:
                assert broken.name in str(problem)
                outcomes.append("refused")
    assert "refused" in outcomes  # a PNG has checksums, others may still be read
