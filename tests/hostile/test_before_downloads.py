"""What can be refused without a model is refused before the first download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

import optmerge
from optmerge.cli import run
from optmerge.errors import InputError


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the hub that nothing may ask."""

    def asked(name: str, **options: Any) -> str:
        pytest.fail(f"{name} was downloaded first")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)


def asked(folder: Path, **changes: Any) -> list[str]:
    """A merge of models on the hub into an empty place."""
    recipe = {"base": "org/base", "experts": ["org/ocr", "org/chart"], "method": "ties", **changes}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return ["merge", str(folder / "recipe.yaml"), "--out", str(folder / "out")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "gpu"], "unknown device"),
        (["--device", "cpu:3"], "no such device"),
        (["--device", "cuda:9"], "device"),
        (["--memory", "2Gigs"], "not a size in bytes"),
        (["--set", "keep=7"], "out of its domain"),
        (["--set", "sharpness=7"], "no parameter 'sharpness'"),
        (["--set", "side_files=nobody"], "no model called 'nobody'"),
    ],
)
def test_a_wrong_option_is_refused_first(
    options: list[str], words: str, no_download: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*asked(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]])
def test_an_occupied_output_is_refused_first(
    options: list[str], no_download: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")

    assert run([*asked(tmp_path), *options]) == 2
    assert "empty" in capsys.readouterr().err
    assert (tmp_path / "out" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    "options",
    [{"device": "gpu"}, {"memory": "2Gigs"}, {"mode": "replace"}],
    ids=lambda options: next(iter(options)),
)
def test_python_refuses_it_first_too(options: dict[str, Any], no_download: None, tmp_path: Path) -> None:
    recipe = {"base": "org/base", "experts": ["org/ocr"], "method": "ties"}

    with pytest.raises(InputError):
        optmerge.merge(recipe, tmp_path / "out", optmerge.Options(**options))
