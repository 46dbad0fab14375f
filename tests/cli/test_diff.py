"""`optmerge diff`: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from optmerge.cli import run
from worlds.merges import CONFIG, UP, World, save, save_adapter, weights


def test_exit_codes_tell_equal_from_different_from_wrong(
    models: World, capsys: pytest.CaptureFixture[str]
) -> None:
    base, expert = str(models.base), str(models.experts[0])
    assert run(["diff", base, base]) == 0
    assert capsys.readouterr().out.startswith("equal: 11 tensors")
    assert run(["diff", base, expert]) == 1
    assert capsys.readouterr().err == ""
    assert run(["diff", base, str(save_adapter(models.root / "adapter"))]) == 2
    assert "next: make a checkpoint of the adapter first" in capsys.readouterr().err


def test_json_is_printed_for_both_verdicts(models: World, capsys: pytest.CaptureFixture[str]) -> None:
    base, expert = str(models.base), str(models.experts[0])
    for other, code in ((base, 0), (expert, 1)):
        assert run(["diff", base, other, "--json"]) == code
        found = json.loads(capsys.readouterr().out)
        assert found["equal"] == (code == 0)
        assert sum(found["counts"].values()) == len(found["tensors"]) == 11


def test_the_tables_fit_eighty_columns(
    models: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optmerge.cli.console.NARROWEST", 80)
    monkeypatch.setenv("COLUMNS", "80")
    tensors = weights(1)
    del tensors[UP]
    other = save(models.root / "other", tensors, config=CONFIG | {"num_attention_heads": 3})
    run(["diff", str(models.base), str(other)])
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= 80
    for words in ("tensors that differ most", "only in A (1):", "config num_attention_heads: A 2, B 3"):
        assert any(line.startswith(words) for line in lines), words
