"""Files that appear whole or not at all, and a full disk noticed before work is spent on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optmerge.errors import OptMergeError, OutputError, RunError

PARTIAL = ".partial"

LARGEST_CALL = 1 << 30
"""Bytes asked for in one read or write: macOS refuses more than 2 GiB, Linux moves no more."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What a file system says to a call that it doesn't have."""

_UNUSABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
    | {errno.ENAMETOOLONG, errno.ELOOP}
)


def partial_path(path: Path) -> Path:
    """Where a file is written before it is complete: NAME.partial beside it."""
    return path.with_name(path.name + PARTIAL)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns errors of the operating system while writing into this project's errors.

    Raises:
        RunError: the disk is full, the quota is used up, or the device failed.
        OutputError: the place can't be written to.
    """
    try:
        yield
    except OSError as problem:
        raise explained(path, problem) from problem


def explained(path: Path, problem: OSError) -> OptMergeError:
    """This project's error for an error of the operating system while writing to a path."""
    if problem.errno in DISK_FULL:
        return RunError(f"{path}: the disk is full ({problem.strerror}); make room and resume")
    if problem.errno in _UNUSABLE:
        hint = "choose another --out, or make the place writable"
        return OutputError("the output can't be written", where=path, got=problem.strerror, hint=hint)
    return RunError(f"{path}: writing failed: {problem.strerror}")


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write every byte at a position; may be called from many threads on one file."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done : done + LARGEST_CALL], offset + done)


def reserve(descriptor: int, size: int) -> None:
    """Give a file its size and its disk blocks, so that a full disk is noticed now.

    Raises:
        OSError: ENOSPC when the blocks aren't there.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as problem:
            if problem.errno not in NOT_SUPPORTED:
                raise
    space = os.fstatvfs(descriptor)
    if space.f_bavail * space.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, size)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power cut, where the file system can (SMB and some FUSE can't).

    Raises:
        OSError: the device failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file whole: beside its place, synced, then renamed.

    Raises:
        RunError: the disk is full or failed.
        OutputError: the place can't be written to.
    """
    beside = partial_path(path)
    with disk_errors(path):
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
