"""In a notebook a merge shows how far it is; elsewhere it says nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import optmerge
from worlds.merges import world

ZMQInteractiveShell = type("ZMQInteractiveShell", (), {})
TerminalInteractiveShell = type("TerminalInteractiveShell", (), {})


@pytest.mark.parametrize(
    ("shell", "shown"), [(ZMQInteractiveShell(), True), (TerminalInteractiveShell(), False), (None, False)]
)
def test_a_bar_is_shown_in_notebooks_alone(
    shell: object,
    shown: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    models = world(tmp_path)
    optmerge.merge(models.recipe(), models.out)
    said = capsys.readouterr().err
    assert ("merging: 100%" in said) == shown and bool(said) == shown
