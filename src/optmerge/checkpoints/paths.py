"""Which files of a checkpoint folder may be followed; what messages say of those that may not."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from optmerge.errors import CheckpointError, InputError

READABLE = "check that the file is there and that you may read it; download it again if it is damaged"
"""The next step where the system gives no file."""

DANGLING = "the link leads nowhere: put the file in its place, or download it again"


def require_regular_file(path: Path, error: type[InputError] = CheckpointError) -> os.stat_result:
    """The status of a regular file, links followed.

    Raises:
        InputError: of class `error`; the path is missing, unreadable, a folder, a pipe or a device.
    """
    try:
        status = path.stat()
    except OSError as problem:
        dangling = os.path.islink(path)  # noqa: PTH114 (False for a name that no file can have)
        hint = DANGLING if dangling else similar_siblings(path) or READABLE
        raise error("the file can't be read", where=path, got=problem.strerror, hint=hint) from None
    except ValueError:
        hint = "correct the name"
        raise error("the file name holds a null character", where=repr(str(path)), hint=hint) from None
    if not stat.S_ISREG(status.st_mode):
        got = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise error(
            "this isn't a file",
            where=path,
            got=got,
            expected="a regular file",
            hint="give the path of a file",
        )
    return status


_TENSORS_ONLY = ".safetensors"


def member(folder: Path, name: str, named_by: object, error: type[InputError] = CheckpointError) -> Path:
    """Path of a file that a folder names as its own, refused when it isn't inside.

    Links may lead to places inside the folder. In a snapshot of the Hugging Face cache they may also lead
    into the `blobs` of the same cached repository, where that cache keeps every file. A `.safetensors` file
    may be a link to another `.safetensors` file anywhere, as when models share shards: it carries only
    tensors.

    Args:
        folder: checkpoint folder.
        name: file name, possibly with forward slashes.
        named_by: what named it, for the message.
        error: the class raised.

    Raises:
        InputError: of class `error`; the name is absolute, has `..`, a backslash or a null, or leads outside.
    """
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or name.startswith("/") or {"", ".", ".."} & set(parts):
        expected = "a relative path with forward slashes and no '..'"
        raise error(
            "a file name may not be used",
            where=named_by,
            got=repr(name[:200]),
            expected=expected,
            hint="give the file a name inside the folder, or download the checkpoint again",
        )
    path = folder / name
    try:
        inside = is_inside(folder, path) or {path.suffix, path.resolve().suffix} == {_TENSORS_ONLY}
    except (OSError, ValueError, RuntimeError):  # too long; no text; links in a circle (before Python 3.13)
        hint = "give the file a name inside the folder, or download the checkpoint again"
        raise error("a file name leads nowhere", where=named_by, got=repr(name[:200]), hint=hint) from None
    if not inside:
        raise error(
            "a file leads outside its checkpoint folder",
            where=named_by,
            got=f"{name} → {path.resolve()}",
            expected=f"a file in {folder}",
            hint="copy the file into the folder instead of linking to it",
        )
    return path


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a path, links followed, lies in a folder, or in the blobs of its cached repository."""
    home, target = folder.resolve(), path.resolve()
    return target.is_relative_to(home) or any(target.is_relative_to(blobs) for blobs in _cache_blobs(home))


def _cache_blobs(home: Path) -> list[Path]:
    """`…/models--org--name/blobs` when `home` lies in `…/models--org--name/snapshots/REVISION`."""
    for folder in (home, *home.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
            return [repository / "blobs"]
    return []


def is_file(path: Path) -> bool:
    """Whether a path, links followed, is a regular file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def similar_siblings(path: Path) -> str | None:
    """A hint that names the siblings most like a missing path; None when nothing is near."""
    try:
        siblings = sorted(sibling.name for sibling in path.parent.iterdir())
    except (OSError, ValueError):
        return None
    close = difflib.get_close_matches(path.name, siblings, n=3)
    return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else None


_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive: probably a PyTorch checkpoint (pickle)"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the weights"),
    (b"<", "a web page: the download probably needed a login"),
    (b"{", "a JSON text"),
)


def seems_to_be(start: bytes) -> str | None:
    """A description of the format that a file's first bytes suggest; None when they suggest none."""
    if start[:1] == b"\x80" and start[1:2] not in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return None  # 0x80 alone is a likely low byte of a header length
    return next((what for signature, what in _SIGNATURES if start.lstrip().startswith(signature)), None)
