"""The program runs where others let it: without a home, without a cache, and says so where it can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numba.core import caching
from numba.core.caching import FunctionCache

from optmerge import _compiled
from optmerge._system import cache_folder, require_posix
from optmerge.errors import InputError


def double(value: Any) -> Any:
    return value * 2


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "_problems", [])


def test_the_cache_folder_is_the_variables_then_the_systems_then_the_homes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("OPTMERGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    assert cache_folder() == tmp_path / "home" / ".cache" / "optmerge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "optmerge"
    monkeypatch.setenv("OPTMERGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert not any(tmp_path.iterdir())


def test_without_a_home_there_is_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTMERGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)

    assert cache_folder() is None


def test_a_read_only_installation_keeps_its_loops_in_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_compiled, "_writable", lambda function: False)
    monkeypatch.setenv("OPTMERGE_CACHE", str(tmp_path))

    assert _compiled.compiled(double)(4) == 8
    assert list((tmp_path / "numba").rglob("*.nbi"))
    assert _compiled.uncached() is None


def test_without_any_place_loops_are_compiled_in_memory_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FunctionCache._impl_class, "_locator_classes", [])

    assert _compiled.compiled(double)(4) == 8
    assert "OPTMERGE_CACHE" in str(_compiled.uncached())


@pytest.mark.parametrize("damage", ["full disk", "damaged index"])
def test_a_cache_that_fails_later_costs_the_cache_alone(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_compiled, "_writable", lambda function: False)
    monkeypatch.setenv("OPTMERGE_CACHE", str(tmp_path))
    if damage == "damaged index":
        _compiled.compiled(double)(4)
        for file in tmp_path.rglob("*.nb?"):
            file.write_bytes(b"\x80nonsense")
    else:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)

    assert _compiled.compiled(double)(4) == 8
    assert (_compiled.uncached() is not None) is (damage == "full disk")


def test_windows_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="Windows Subsystem for Linux"):
        require_posix("nt")
