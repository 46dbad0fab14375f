"""`optmerge analyze`: its summary, its file, and what it refuses."""

from __future__ import annotations

import json

import pytest

from optmerge.cli import run
from worlds.merges import World


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optmerge.cli.console.NARROWEST", 80)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("narrow")
def test_the_summary_fits_eighty_columns_and_names_every_expert_and_layer(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["analyze", recipe, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("6 tensors merged by task_arithmetic", "e0", "e1", "language 0", "language 1", "•"):
        assert words in shown


def test_the_file_holds_what_json_prints_and_an_old_file_stays(
    models: World, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = models.root / "new" / "analysis.json"
    assert run(["analyze", recipe, "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    before = out.read_bytes()
    assert run(["analyze", recipe, "--out", str(out)]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert out.read_bytes() == before
