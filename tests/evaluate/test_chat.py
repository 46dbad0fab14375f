"""Merged models answer with transformers' own classes, its pipeline, and from the command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from optmerge.bench.lines.tiny import tiny_models
from optmerge.cli import run
from optmerge.errors import CheckpointError, InputError
from optmerge.evaluate import chat

LINES = ("full", "lora")
QUESTION = "what color is the star?"


@pytest.mark.parametrize("line", LINES)
def test_transformers_pipeline_answers_as_we_do(line: str, merged: Mapping[str, Path], picture: Path) -> None:
    from transformers import AutoModelForImageTextToText, pipeline

    model = AutoModelForImageTextToText.from_pretrained(merged[line], dtype="auto")
    asking = pipeline("image-text-to-text", model=model, processor=chat.processor(merged[line]))
    turn = [{"type": "image", "url": str(picture)}, {"type": "text", "text": QUESTION}]
    (told,) = asking(
        text=[{"role": "user", "content": turn}],
        return_full_text=False,
        generate_kwargs={"do_sample": False, "max_new_tokens": 8},
    )
    ours = chat.load(merged[line]).ask(QUESTION, [Image.open(picture).convert("RGB")], longest=8)
    assert told["generated_text"].strip() == ours


@pytest.mark.parametrize("line", LINES)
def test_the_benchmark_shows_a_model_what_the_familys_processor_does(
    line: str, merged: Mapping[str, Path], picture: Path
) -> None:
    _, ours = tiny_models.load(line, merged[line])
    image = Image.open(picture).convert("RGB")
    mine = ours.inputs([QUESTION], [image])
    own = chat.processor(merged[line])
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    prompt = own.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    theirs = own(text=[prompt], images=[image], return_tensors="pt")
    assert set(theirs) == set(mine)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name].to(value.dtype)), name


def test_a_merged_adapter_is_asked_with_its_base(
    merged: Mapping[str, Path], picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ask", str(merged["adapter"]), QUESTION, "--image", str(picture), "--longest", "4"]) == 0
    with_base = capsys.readouterr().out
    assert run(["ask", str(merged["lora"]), QUESTION, "--image", str(picture), "--longest", "4"]) == 0
    assert with_base == capsys.readouterr().out


def test_an_adapter_is_put_on_its_base_without_a_warning(merged: Mapping[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.load(merged["adapter"])


def test_every_question_gets_a_line(
    merged: Mapping[str, Path], picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ask", str(merged["full"]), "a?", "b?", "--image", str(picture), "--longest", "2"]
    assert run(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("می\u200cخواهم 👩\u200d🔬 [bold]", "می\u200cخواهم 👩\u200d🔬 [bold]"),
        ("\x1b[2J\x1b]0;mine\x07 \x9b31m", r"\x1b[2J\x1b]0;mine\x07 \x9b31m"),
        ("over\rwritten", r"over\rwritten"),
    ],
)
def test_an_answer_cannot_drive_the_terminal(
    answer: str,
    shown: str,
    merged: Mapping[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat.Chat, "answers", lambda *_, **__: [answer])
    assert run(["ask", str(merged["full"]), QUESTION]) == 0
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize("shape", [(200, 100), (30, 300), (1, 1)])
@pytest.mark.parametrize("line", LINES)
def test_pictures_of_any_shape_are_taken(
    line: str, shape: tuple[int, int], merged: Mapping[str, Path]
) -> None:
    asked = chat.load(merged[line])
    if line == "lora" and shape == (1, 1):
        pytest.skip("Qwen2-VL's processor itself refuses pictures smaller than a patch")
    assert isinstance(asked.ask(QUESTION, [Image.new("RGB", shape, "red")], longest=2), str)


def wrong_inputs(tmp_path: Path, merged: dict[str, Path], picture: Path) -> dict[str, tuple[list[str], str]]:
    text = tmp_path / "not-a-picture.png"
    text.write_text("hello")
    empty = tmp_path / "empty"
    empty.mkdir()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "adapter_config.json").write_text("{}")
    model = str(merged["full"])
    return {
        "no such picture": ([model, "a?", "--image", str(tmp_path / "none.png")], "none.png"),
        "can't be read": ([model, "a?", "--image", str(text)], "not-a-picture.png"),
        "no model here": ([str(empty), "a?"], str(empty)),
        "doesn't name its base": ([str(alone), "a?"], "adapter_config.json"),
        "unknown device": ([model, "a?", "--device", "tpu"], "tpu"),
        "no such checkpoint": ([str(tmp_path / "nowhere"), "a?"], "nowhere"),
    }


def test_wrong_input_is_said_in_a_line_with_exit_code_two(
    merged: Mapping[str, Path], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, (arguments, named) in wrong_inputs(tmp_path, merged, picture).items():
        assert run(["ask", *arguments]) == 2
        message = capsys.readouterr().err
        assert words in message and named in message and "Traceback" not in message


def test_a_text_only_model_refuses_pictures(tmp_path: Path, merged: Mapping[str, Path]) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(merged["full"])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = chat.load(tmp_path)
    asked.ask("hello?", longest=2)
    with pytest.raises(InputError, match="no images"):
        asked.ask("hello?", [Image.new("RGB", (8, 8))])


def test_a_missing_processor_is_named(merged: Mapping[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(merged["lora"], folder)
    for path in folder.iterdir():
        if path.suffix == ".json" and path.name not in ("config.json", "generation_config.json"):
            path.unlink()
    with pytest.raises(CheckpointError, match="bare"):
        chat.load(folder)
