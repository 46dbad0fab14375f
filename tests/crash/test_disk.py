"""A disk that is full or can't be written to, at any step: said in so many words, and resumable."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import yaml

import optmerge
from crash.killing import KINDS, Merge, prepared, steps
from optmerge.checkpoints import output_files
from optmerge.checkpoints import shard_writer as writer
from optmerge.cli import run
from optmerge.engine.output import dense as dense_output
from optmerge.engine.output import folder as state
from optmerge.errors import OutputError, RunError

SMALL = {"matrices": 4, "size": 24}


@pytest.fixture(params=KINDS)
def merge(request: pytest.FixtureRequest, tmp_path: Path) -> Merge:
    return prepared(tmp_path, request.param, **SMALL)


@pytest.fixture(autouse=True)
def sync_after_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_output, "SYNC_SECONDS", 0.0)


# --- a full disk at every step


NEEDS_ROOM = frozenset({"open", "os.mkdir", "pwrite", "posix_fallocate", "fsync"})


def failing(from_step: int, code: int, names: Container[str] | None = None) -> Callable[[int, str], None]:
    """Lets every change of the disk of these names fail, from the n-th change on."""

    def fail(step: int, name: str) -> None:
        if step >= from_step and (names is None or name in names):
            raise OSError(code, os.strerror(code))

    return fail


def count_of(merge: Merge) -> int:
    with steps(merge.out, lambda step, name: None) as count:
        optmerge.merge(merge.recipe, merge.out)
        found = count()
    shutil.rmtree(merge.out)
    return found


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_step_is_said_and_resumed(merge: Merge, stride: int) -> None:
    full = 0
    for step in range(0, count_of(merge), stride):
        with steps(merge.out, failing(step, errno.ENOSPC, NEEDS_ROOM)):
            try:
                optmerge.merge(merge.recipe, merge.out)
            except RunError as problem:
                full += 1
                assert re.search(r"the disk is full .*; make room and resume", str(problem))
        merge.assert_resumable()
        shutil.rmtree(merge.out)
    assert full >= 2


# --- a disk that is really full, where one can be mounted


class Disk(Protocol):
    """A folder of few bytes."""

    folder: Path

    def grow(self) -> None:
        """Makes room."""


@dataclass
class Mounted:
    """A file system in memory."""

    folder: Path

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def grow(self) -> None:
        self.resize(1 << 24)


@dataclass
class Pretended:
    """A folder that says it is full when room is reserved."""

    folder: Path
    patch: pytest.MonkeyPatch

    def resize(self, size: int) -> None:
        def refuse(descriptor: int, wanted: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch.setattr(writer, "reserve", refuse)

    def grow(self) -> None:
        self.patch.setattr(writer, "reserve", output_files.reserve)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted | Pretended]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=16m"):
        yield Pretended(folder, monkeypatch)
        return
    yield Mounted(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode


@pytest.mark.parametrize("sizes", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_line_and_resumed_once_there_is_room(
    kind: str, sizes: int, tmp_path: Path, disk: Mounted | Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = prepared(tmp_path, kind, matrices=4, size=64)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge.recipe, sort_keys=False))
    out = disk.folder / "out"
    needed = sum(len(content) for content in merge.whole.values())
    for size in range(4096, needed, max(4096, needed // sizes // 4096 * 4096)):
        disk.resize(size)
        assert run(["merge", str(recipe), "--out", str(out), "-q"]) == 1, f"{size} of {needed} bytes"
        message = capsys.readouterr().err
        assert message.startswith("error: ") and "the disk is full" in message and message.count("\n") == 1
        disk.grow()
        assert run(["merge", str(recipe), "--out", str(out), "-q", "--resume"]) == 0
        Merge(merge.recipe, out, merge.whole).assert_whole()
        shutil.rmtree(out)


# --- a place that can't be written to


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A read-only folder; root may write into any but a file system's that is read-only, or the kernel's."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
    elif mounted(folder, "ro"):
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        yield Path("/proc")


def test_a_folder_that_can_not_be_written_to_is_refused(
    tmp_path: Path, unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = prepared(tmp_path, "survey", **SMALL)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge.recipe))

    assert run(["merge", str(recipe), "--out", str(unwritable / "out"), "-q"]) == 2
    assert "error: the output can't be written" in capsys.readouterr().err


def test_a_folder_that_becomes_read_only_keeps_what_is_done(merge: Merge) -> None:
    with (
        steps(merge.out, failing(25, errno.EROFS)),
        pytest.raises(OutputError, match="Read-only file system"),
    ):
        optmerge.merge(merge.recipe, merge.out)
    assert (merge.out / state.STATE).is_dir()
    merge.assert_resumable()


def test_a_disk_that_fails_is_no_fault_of_the_input(merge: Merge) -> None:
    with steps(merge.out, failing(25, errno.EIO)), pytest.raises(RunError, match="Input/output error"):
        optmerge.merge(merge.recipe, merge.out)
    merge.assert_resumable()


def test_a_full_disk_leaves_no_reserved_space_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = prepared(tmp_path, "survey", **SMALL)
    reserve, calls = output_files.reserve, 0

    def refuse(descriptor: int, size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, size)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "reserve", refuse)
        with pytest.raises(RunError):
            optmerge.merge(merge.recipe, merge.out)
    assert not list((merge.out / state.STATE).rglob("*.safetensors*"))
    merge.assert_resumable()
