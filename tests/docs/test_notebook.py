"""The notebook of the tutorials runs from its first cell to its last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from docs.blocks import ROOT

NOTEBOOK = ROOT / "docs/tutorials/first-merge.ipynb"


@pytest.mark.slow
def test_the_notebook_merges_with_a_bar_and_draws_what_models_answer(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    assert "{'merge': 28, 'copy': 77, 'alias': 0}" in said and "verified: True" in said
    assert "merging: 100%" in said
    assert any("image/png" in output.get("data", {}) for output in outputs)
