"""Packages as a user would install them beside OptMerge: a module, and metadata with its entry point."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from optmerge.registry import Registry

_NUMBERS = count()


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, group: str, source: str | None) -> None:
    """Puts a distribution `outsider` on the path; without a source its entry point leads nowhere."""
    (folder / "outsider-1.0.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n"
    (folder / "outsider-1.0.dist-info/METADATA").write_text(metadata)
    module = (
        f"outsider_of_{group.replace('.', '_')}_{abs(hash(source))}"  # imported once a process by its name
    )
    (folder / "outsider-1.0.dist-info/entry_points.txt").write_text(f"[{group}]\noutsider = {module}\n")
    if source is not None:
        (folder / f"{module}.py").write_text(dedent(source))
    monkeypatch.syspath_prepend(folder)


def forget(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """Replaces a module's registry by one that hasn't looked for anything yet."""
    old: Any = getattr(module, name)
    fresh: Registry[Any] = Registry(
        old._what, old._package, old._group, error=old._error, collect=old._collect
    )
    monkeypatch.setattr(module, name, fresh)
