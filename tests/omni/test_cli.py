"""`optmerge omni compose` and `optmerge omni ask` from the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from optmerge.cli import Interrupted, run
from optmerge.omni import OmniProcessor
from worlds import omni as tiny
from worlds import omni_zoo as zoo
from worlds.omni_originals import saved


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    llm = zoo.base(folder / "llm")
    zoo.adapted(llm, folder / "seeing", "clip", seed=1)
    zoo.adapted(llm, folder / "hearing", "whisper", seed=2)
    tiny.picture().save(folder / "a.png")
    tiny.write_wave(folder / "a.wav", tiny.sound(), 8000)
    return folder


def omni(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> tuple[str, str]:
    """Output and errors of a command that ends with this code."""
    capsys.readouterr()
    assert run(["omni", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out, printed.err


def composing(home: Path, out: Path, *more: object) -> list[object]:
    experts = ["--expert", home / "seeing", "--expert", home / "hearing"]
    return ["compose", "--base", home / "llm", *experts, "--out", out, *more]


def test_the_help_of_ask_names_the_placeholders(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["omni", "ask", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"<{modality}>" in shown for modality in ("image", "audio", "video"))


def test_experts_are_composed_and_asked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = omni(capsys, 0, *composing(home, tmp_path / "omni", "--json", "--set", "scale=0.8"))
    assert run(["verify", str(tmp_path / "omni")]) == 0
    summary = json.loads(told)
    assert summary["out"] == str(tmp_path / "omni") and summary["counts"]["merge"] == 6
    asked = ["ask", tmp_path / "omni", "--image", home / "a.png", "--audio", home / "a.wav"]
    told, notes = omni(capsys, 0, *asked, "what is this ?", "what <audio> is <image> ?", "--longest", 5)
    assert len(told.splitlines()) == 2
    assert notes.count("resampled from 8000 Hz to 16000 Hz") == 2


@pytest.mark.parametrize("method", ["naivemc", "damc"])
def test_the_baselines_have_names(
    method: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = omni(capsys, 0, *composing(home, tmp_path / "omni", "--method", method, "--json"))
    assert json.loads(told) | {"out": str(tmp_path / "omni"), "adapter": None} == json.loads(told)


def test_an_adapter_can_be_asked_for(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told, _ = omni(capsys, 0, *composing(home, tmp_path / "omni", "--set", "output=adapter", "--json"))
    assert json.loads(told)["adapter"] == str(tmp_path / "omni/adapter")
    told, _ = omni(
        capsys, 0, "ask", tmp_path / "omni/adapter", "what ?", "--image", home / "a.png", "--longest", 3
    )
    assert len(told.splitlines()) == 1


def test_mistakes_are_told_with_the_way_out(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["--expert", home / "seeing", "--tower", "image=seeing-2"]
    for more, told in (
        (["--expert", home / "seeing"], "--tower image=seeing"),
        ([*twice, "--tower", "image"], "MODALITY=EXPERT"),
        (["--method", "avrage"], "average"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--device", "cuda:7"], "--device"),
    ):
        _, errors = omni(capsys, 2, *composing(home, tmp_path / "omni", *more))
        assert told in errors
    omni(capsys, 0, *composing(home, tmp_path / "omni", *twice, "--quiet"))
    _, errors = omni(capsys, 2, *composing(home, tmp_path / "omni"))
    assert "--overwrite" in errors
    _, errors = omni(capsys, 2, "ask", tmp_path / "omni", "what ?", "--image", tmp_path / "nowhere.png")
    assert "nowhere.png" in errors


def test_a_checkpoint_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "source", "video_llava")
    told, _ = omni(capsys, 0, "import", source, "--tower", "video", "--out", tmp_path / "expert")
    assert told.strip().endswith("expert: video")
    assert list(OmniProcessor.from_pretrained(tmp_path / "expert").towers) == ["video"]
    _, errors = omni(capsys, 2, "import", source, "--out", tmp_path / "expert")
    assert "isn't empty" in errors


def test_an_interrupted_composition_is_resumed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    omni(capsys, 0, *composing(home, tmp_path / "whole", "--quiet"))
    out = tmp_path / "omni"
    with monkeypatch.context() as patched:
        patched.setattr("optmerge.engine.merge.write_provenance", interrupted)
        omni(capsys, 128 + signal.SIGTERM, *composing(home, out, "--quiet"))
    assert not (out / "model.safetensors").exists()
    _, errors = omni(capsys, 2, *composing(home, out, "--quiet"))
    assert "--resume" in errors
    omni(capsys, 0, *composing(home, out, "--quiet", "--resume"))
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def interrupted(*_: object) -> None:
    raise Interrupted(signal.SIGTERM)
