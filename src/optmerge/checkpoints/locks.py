"""One process at a time: by `flock`, or by a file that names its owner where the file system has no locks.

Lustre mounted without `-o flock`, NFS without its lock daemon and some FUSE file systems have no `flock`.
There the lock is a file that only one process can create. The file names host and process, so that what a
killed process of this host has left is recognised.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from optmerge.checkpoints.output_files import NOT_SUPPORTED
from optmerge.errors import OutputError

try:
    import fcntl
except ImportError:  # a Python built without it
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = NOT_SUPPORTED | {errno.ENOLCK}
PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.02
"""How long a writer without `flock` waits for another one's write, and how often it looks."""

_HELD = frozenset({errno.EAGAIN, errno.EACCES})


class Held(Exception):  # noqa: N818 (a state of the lock, no error of the program)
    """Another process holds the lock.

    Args:
        owner: host and process; empty where `flock` is used, which doesn't tell.
        file: what to remove if the owner is gone; None where the lock goes with its owner.
    """

    def __init__(self, owner: str = "", file: Path | None = None) -> None:
        super().__init__(owner)
        self.owner, self.file = owner, file


class Lock:
    """A lock that is held until `close`.

    Args:
        file: open and locked by `flock`; None where the lock is an owner file.
        owned: the owner file and what it says; None where `flock` is used.
    """

    def __init__(self, file: IO[bytes] | None, owned: tuple[Path, bytes] | None = None) -> None:
        self._file, self._owned = file, owned

    def close(self) -> None:
        """Lets go."""
        if self._file is not None:
            self._file.close()
        if self._owned is not None:
            path, content = self._owned
            self._owned = None
            with suppress(OSError):  # with the folder it lay in, say
                if path.read_bytes() == content:  # nobody else's, who took the folder since
                    path.unlink()


def lock(path: Path) -> Lock:
    """Takes the lock that a file stands for, or says who holds it; never waits.

    Args:
        path: the file; made if need be. The owner's file, where there is one, is PATH.owner.

    Raises:
        Held: another process holds it, or may hold it.
        OSError: the file can't be made.
    """
    file = path.open("ab")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Lock(file)
    except OSError as problem:
        file.close()
        if problem.errno in _HELD:
            raise Held from None
        if problem.errno not in _NO_LOCKS:
            raise
    file.close()
    return _owned(path.with_name(path.name + ".owner"))


def lock_alone(path: Path, what: str, *, where: Path, option: str) -> Lock:
    """Takes the lock of a folder that one process at a time works in.

    Args:
        path: as for `lock`.
        what: of the refusal: what another process does.
        where: the folder.
        option: of the command line, which names another folder.

    Raises:
        OutputError: another process holds the lock.
        OSError: the file can't be made.
    """
    try:
        return lock(path)
    except Held as held:
        left = f"; if that process is gone, remove {held.file}" if held.file is not None else ""
        raise OutputError(
            what,
            where=where,
            got=held.owner or None,
            hint=f"wait for it to end, or choose another {option}{left}",
        ) from None


@contextmanager
def waited_for(file: IO[bytes], path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock on an open file, for as long as a write or a read of it takes; waits for others.

    Without `flock` a reader holds nothing, since it may have no right to write beside the file; it may meet a
    line that another process is writing.

    Args:
        file: open.
        path: of the file. The owner's file, where there is one, is PATH.owner.
        shared: other readers may hold it, too.

    Raises:
        OutputError: without `flock`, another process holds it for longer than a write can take.
        OSError: the owner's file can't be made.
    """
    if _has_flock(file, shared):
        yield
        return
    held = Lock(None) if shared else _patient(path.with_name(path.name + ".owner"))
    try:
        yield
    finally:
        held.close()


def _has_flock(file: IO[bytes], shared: bool) -> bool:
    """Waits for `flock` on a file; False where the file system has none."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _patient(path: Path) -> Lock:
    for _ in range(int(PATIENCE_SECONDS / _LOOK_SECONDS)):
        with suppress(Held):
            return _owned(path)
        time.sleep(_LOOK_SECONDS)
    try:
        return _owned(path)
    except Held as found:
        raise OutputError(
            "another process is writing into this file",
            where=path.with_name(path.name.removesuffix(".owner")),
            got=found.owner,
            hint=f"wait for it to end; if it has ended, remove {found.file}",
        ) from None


def _owned(path: Path) -> Lock:
    content = json.dumps(_this_process()).encode()
    if not _create(path, content):
        _remove_if_left_over(path)
        if not _create(path, content):
            raise Held(_words(_read(path)), path)
    return Lock(None, (path, content))


def _create(path: Path, content: bytes) -> bool:
    """Whether the file could be made; False where it is there already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return True


def _remove_if_left_over(path: Path) -> None:
    """Removes the file of a process of this host that has ended; one process at a time looks.

    Raises:
        Held: the owner lives, or is on another host, where nobody can tell from here.
    """
    found = _read(path)
    if not _has_ended(found):
        raise Held(_words(found), path)
    guard = path.with_name(path.name + ".taken-over")
    if not _create(guard, b""):
        raise Held("a process that takes over another's lock", guard)
    try:
        if _read(path) == found:
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "process": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    """Name of the host; in a container the name of its process numbers, too."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()


def _started(process: int) -> str | None:
    """When a process was started, which tells it from a later one of its number; None where nobody knows."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if len(fields) > 19 else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether an owner is known to be gone."""
    process = owner.get("process")
    if owner.get("host") != _host() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it lives, and is another user's
        return False
    return owner.get("started") is not None and owner["started"] != _started(process)


def _words(owner: dict[str, Any]) -> str:
    host = str(owner.get("host", "")).partition(" ")[0]
    return f"process {owner.get('process')} on {host}" if host else "a process that left no name"
