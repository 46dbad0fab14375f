"""One owner at a time, by `flock` and without."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optmerge.checkpoints import locks
from optmerge.checkpoints.locks import Held, lock

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP]


def without_flock(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOLCK) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=["flock", "owner"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "owner":
        without_flock(monkeypatch)


def owner(path: Path, **changes: object) -> Path:
    """Leaves an owner's file as a killed process would."""
    file = path.with_name("lock.owner")
    file.write_text(json.dumps({**locks._this_process(), **changes}))
    return file


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.usefixtures("either")
def test_a_lock_is_held_until_it_is_closed(tmp_path: Path) -> None:
    first = lock(tmp_path / "lock")
    with pytest.raises(Held):
        lock(tmp_path / "lock")
    first.close()
    lock(tmp_path / "lock").close()


@pytest.mark.parametrize("code", NO_LOCKS)
def test_what_a_file_system_without_locks_says_leads_to_an_owner(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch, code)
    held = lock(tmp_path / "lock")

    with pytest.raises(Held, match=f"process {os.getpid()}") as problem:
        lock(tmp_path / "lock")
    assert problem.value.file == tmp_path / "lock.owner"
    held.close()
    assert not (tmp_path / "lock.owner").exists()


def test_a_failing_disk_is_not_taken_for_one_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        lock(tmp_path / "lock")


def test_what_a_killed_process_of_this_host_left_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    owner(tmp_path / "lock", process=dead_process())

    lock(tmp_path / "lock").close()


def test_a_later_process_of_the_same_number_is_not_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    owner(tmp_path / "lock", started="1")

    lock(tmp_path / "lock").close()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"host": "elsewhere", "process": 1}'])
def test_an_owner_that_cannot_be_asked_keeps_its_lock(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    (tmp_path / "lock.owner").write_bytes(content)
    with pytest.raises(Held) as problem:
        lock(tmp_path / "lock")

    assert problem.value.file == tmp_path / "lock.owner"
    assert (tmp_path / "lock.owner").read_bytes() == content


def test_only_one_of_those_who_find_a_dead_owner_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    owner(tmp_path / "lock", process=dead_process())
    (tmp_path / "lock.owner.taken-over").touch()
    with pytest.raises(Held):
        lock(tmp_path / "lock")


def test_closing_leaves_the_lock_of_whoever_took_the_folder_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    held = lock(tmp_path / "lock")
    theirs = owner(tmp_path / "lock", host="elsewhere")
    held.close()

    assert theirs.exists()


def test_a_python_without_fcntl_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    held = lock(tmp_path / "lock")
    with pytest.raises(Held):
        lock(tmp_path / "lock")
    held.close()
