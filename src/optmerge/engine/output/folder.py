"""The output folder while a merge runs: one owner, a journal to resume from, and nothing of others harmed.

Everything is written under `OUT/.optmerge/staging` and moved into place, index last, when all of it is on the
disk. Until then an earlier output in the folder stays whole; a crash leaves the state folder, which is all
that `--resume` needs and all that a discarded merge leaves to remove.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from optmerge.checkpoints.json_files import parse_object, read_object
from optmerge.checkpoints.locks import Lock, lock_alone
from optmerge.checkpoints.output_files import disk_errors, sync_folder, write_all, write_file
from optmerge.checkpoints.paths import is_inside
from optmerge.checkpoints.shards import INDEX_NAME
from optmerge.engine.plan import Squares
from optmerge.errors import InputError, OutputError

STATE, JOURNAL = ".optmerge", "journal.jsonl"
PROVENANCE = "optmerge.json"
Noted = Mapping[str, Mapping[str, str]]
"""Model → tensor as the model stores it → its digest."""

Mode = Literal["new", "resume", "overwrite"]


class OutputFolder:
    """An output folder, locked; a context manager.

    Args:
        path: the folder; made if need be.
        fingerprint: of the plan; a journal of another plan is refused.
        ingredients: what the plan was made of → its fingerprint; says what is other about that plan.
        mode: `new` wants an empty folder, `resume` continues an interrupted merge (or starts one),
            `overwrite` replaces an earlier merge once the new one is complete.

    Raises:
        OutputError: the folder isn't empty, is in use, or holds another merge.
    """

    def __init__(self, path: Path, fingerprint: str, ingredients: Mapping[str, str], mode: Mode) -> None:
        self.path = path
        self.staging = path / STATE / "staging"
        self.written: frozenset[str] = frozenset()
        self.digests: Noted = {}
        self.measured: dict[str, dict[str, Squares]] = {}
        self.scales: Mapping[str, float] = {}
        self.complete = False
        self.fingerprint = fingerprint
        self._ingredients = dict(ingredients)
        self._stale: frozenset[Path] = frozenset()
        self._journal: int | None = None
        self._journal_bytes = 0
        check_usable(path, mode)
        with disk_errors(path):
            self._made = [each for each in (path, *path.parents) if not each.exists()]
            state_is_ours = not (path / STATE).exists()
            try:
                self.staging.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(path)
            except OSError:
                if state_is_ours:
                    self._remove()
                raise
        try:
            self._start(mode)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(
        self,
        measured: Mapping[str, Mapping[str, Squares]],
        scales: Mapping[str, float] | None = None,
        digests: Noted | None = None,
    ) -> None:
        """Notes tensors whose bytes are on the disk.

        Args:
            measured: tensor → expert → how far the expert moved it.
            scales: tensor → scale, where one was chosen for the tensor.
            digests: of what was read for them: model → tensor as stored there → digest.
        """
        if measured:
            squares = {
                name: {expert: [one.change, one.base, one.exact] for expert, one in own.items()}
                for name, own in measured.items()
            }
            noted = {"scales": dict(scales or {}), "digests": digests}
            line = {"written": list(measured), "squares": squares}
            self._note(line | {key: value for key, value in noted.items() if value})

    def publish(self) -> None:
        """Moves everything into place, index last, and removes the state: the output is complete.

        Raises:
            OutputError: a folder of the output is a link that leads elsewhere.
            RunError: the disk failed.
        """
        if not self.complete:
            self._note({"complete": True})
        with disk_errors(self.path):
            files = [path.relative_to(self.staging) for path in self.staging.rglob("*") if path.is_file()]
            self._check_inside(files)
            for file in sorted(set(self._earlier_files()) - self._new_files()):
                (self.path / file).unlink(missing_ok=True)
            for file in sorted(files, key=lambda file: (file.name in (INDEX_NAME, PROVENANCE), str(file))):
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                (self.staging / file).replace(self.path / file)
            sync_folder(self.path)
            shutil.rmtree(self.staging)
            shutil.rmtree(self.path / STATE)
            sync_folder(self.path)

    def discard(self) -> None:
        """Removes whatever this merge wrote: its input turned out to be wrong."""
        with suppress(OSError):  # first of all, for without it nothing counts as written
            (self.path / STATE / JOURNAL).unlink()
        self._remove()
        self.close()

    def _remove(self) -> None:
        """Removes the state, and the folders that were made for it."""
        shutil.rmtree(self.path / STATE, ignore_errors=True)
        with suppress(OSError):  # someone else has put a file there
            for folder in self._made:
                folder.rmdir()

    def close(self) -> None:
        """Lets go of the folder as it is."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None
        self._lock.close()

    def _start(self, mode: Mode) -> None:
        journal = self.path / STATE / JOURNAL
        lines, length = _read_journal(journal)
        if mode == "resume" and lines and lines[0].get("fingerprint") != self.fingerprint:
            raise OutputError(
                "the unfinished merge in this folder is another one",
                where=self.path,
                got=f"another {', another '.join(self._changed(lines[0]))}",
                hint="put it back as it was, or start over with --overwrite",
            )
        self._stale = self._half_moved(lines)
        begun = mode == "resume" and any("begun" in line for line in lines)
        if not begun:
            length = self._start_over(journal)
        with disk_errors(journal):
            self._journal = os.open(journal, os.O_WRONLY | os.O_CLOEXEC)
            os.ftruncate(self._journal, length)  # a line that a full disk cut short would spoil the next
        self._journal_bytes = length
        if not begun:
            self._note({"begun": True})
            return
        self.written = _names(lines)
        self.digests = _digests(lines)
        self.measured = _measured(lines)
        self.scales = _scales(lines)
        self.complete = any("complete" in line for line in lines)

    def _start_over(self, journal: Path) -> int:
        """A new journal, all at once, and an empty staging folder; `begun` is noted when both are there."""
        line: dict[str, Any] = {"fingerprint": self.fingerprint, "ingredients": self._ingredients}
        line["stale"] = sorted(map(str, self._stale))
        data = _encoded(line)
        write_file(journal, data)
        with disk_errors(self.staging):
            shutil.rmtree(self.staging)
            self.staging.mkdir()
        return len(data)

    def _half_moved(self, lines: list[dict[str, Any]]) -> frozenset[Path]:
        """Files of an earlier merge that was stopped while they were moved into place, and then given up."""
        stale = [name for line in lines for name in line.get("stale", [])]
        complete = any("complete" in line for line in lines)
        own = _claimed(self.staging / PROVENANCE) if complete else []
        return frozenset((*_inside(stale), *own))

    def _changed(self, line: Mapping[str, Any]) -> list[str]:
        """Which ingredients aren't those of a journal's first line."""
        theirs = line.get("ingredients")
        theirs = theirs if isinstance(theirs, dict) else {}
        names = [*self._ingredients, *(name for name in theirs if name not in self._ingredients)]
        return [name for name in names if theirs.get(name) != self._ingredients.get(name)] or ["plan"]

    def _note(self, line: dict[str, Any]) -> None:
        assert self._journal is not None, "the folder is closed"
        with disk_errors(self.path):
            data = _encoded(line)
            write_all(self._journal, memoryview(data), self._journal_bytes)
            os.fsync(self._journal)
            self._journal_bytes += len(data)

    def _earlier_files(self) -> list[Path]:
        """Files that an earlier merge in this folder has left, and that are really in it."""
        claimed = {*_claimed(self.path / PROVENANCE), *self._stale}
        files = [file for file in claimed if (self.path / file).is_file()]
        return [file for file in files if is_inside(self.path, (self.path / file).parent)]

    def _check_inside(self, files: list[Path]) -> None:
        """Refuses to write through a link, which a folder that comes from elsewhere may hold."""
        for file in files:
            if not is_inside(self.path, (self.path / file).parent):
                raise OutputError(
                    "a folder of the output is a link that leads elsewhere",
                    where=(self.path / file).parent,
                    hint="remove the link, then continue with --resume",
                )

    def _new_files(self) -> set[Path]:
        return set(_claimed(self.staging / PROVENANCE) or _claimed(self.path / PROVENANCE))


def check_usable(path: Path, mode: Mode) -> None:
    """Refuses an output folder that holds something `mode` doesn't allow for; changes nothing.

    Raises:
        OutputError: with the way out.
    """
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise OutputError(
                "the output is a file", where=path, expected="a folder", hint="choose another --out"
            )
        if not path.exists() or not any(path.iterdir()):
            return
        unfinished, finished = (path / STATE).is_dir(), (path / PROVENANCE).is_file()
        if (path / STATE).is_symlink() or (path / STATE / "staging").is_symlink():
            raise OutputError(
                "the folder's unfinished merge is a link", where=path / STATE, hint="remove the link"
            )
    if mode == "overwrite" and not (unfinished or finished):
        raise OutputError(
            "the folder isn't empty and isn't the output of a merge",
            where=path,
            hint="choose another --out, or empty it yourself: --overwrite replaces merges only",
        )
    if mode == "new" and unfinished:
        raise OutputError(
            "the folder holds an unfinished merge",
            where=path,
            hint="continue with --resume, or start over with --overwrite",
        )
    if mode == "new" or (mode == "resume" and not unfinished):
        raise OutputError(
            "the output folder isn't empty"
            + (", and holds no unfinished merge of these inputs" if mode == "resume" else ""),
            where=path,
            expected="a new or empty folder",
            hint="choose another --out"
            + (", or replace the merge in it with --overwrite" if finished else ""),
        )


def written_before(path: Path) -> frozenset[str]:
    """Tensors that the journal of an unfinished merge names; of whatever merge it is."""
    lines, _ = _read_journal(path / STATE / JOURNAL)
    return _names(lines)


def finished_fingerprint(path: Path) -> str | None:
    """Fingerprint of the finished merge in a folder; None where there is none."""
    with disk_errors(path):
        if (path / STATE).exists():
            return None
    try:
        found = read_object(path / PROVENANCE, "provenance").get("fingerprint")
    except InputError:
        return None
    return found if isinstance(found, str) else None


def _claimed(provenance: Path) -> list[Path]:
    """Files listed by a provenance file, those outside its folder left out."""
    try:
        files = read_object(provenance, "provenance").get("files")
    except InputError:
        return []
    return _inside(files) if isinstance(files, list) else []


def _inside(files: list[Any]) -> list[Path]:
    paths = [Path(file) for file in files if isinstance(file, str)]
    return [path for path in paths if not path.is_absolute() and ".." not in path.parts]


def _locked(path: Path) -> Lock:
    what = "another merge is writing into this folder"
    return lock_alone(path / STATE / "lock", what, where=path, option="--out")


def _read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Lines of a journal and their bytes; from one on that a crash or a full disk cut short, none count."""
    lines: list[dict[str, Any]] = []
    length = 0
    try:
        data = path.read_bytes()
    except OSError:
        return [], 0
    for text in data.splitlines(keepends=True):
        try:
            line = parse_object(text, path, "journal")
        except InputError:
            break
        lists = (line.get("written", []), line.get("stale", []))
        if not text.endswith(b"\n") or not all(isinstance(each, list) for each in lists):
            break
        lines.append(line)
        length += len(text)
    return lines, length


def _encoded(line: dict[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()


def _names(lines: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.get("written", []) if isinstance(name, str))


def _digests(lines: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Digests of the inputs' tensors that a journal holds; what isn't one is passed over."""
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        noted = line.get("digests")
        for model, digests in noted.items() if isinstance(noted, dict) else ():
            pairs = digests.items() if isinstance(digests, dict) else ()
            fit = {name: each for name, each in pairs if isinstance(each, str) and _DIGEST.fullmatch(each)}
            found.setdefault(model, {}).update(fit)
    return found


_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _measured(lines: list[dict[str, Any]]) -> dict[str, dict[str, Squares]]:
    """Tensor → expert → how far the expert moved it; what isn't understood is left out."""
    found: dict[str, dict[str, Squares]] = {}
    for line in lines:
        noted = line.get("squares")
        for name, own in noted.items() if isinstance(noted, dict) else ():
            with suppress(TypeError, ValueError, AttributeError):
                found[name] = {expert: _squares(*one) for expert, one in own.items()}
    return found


def _squares(change: object, base: object, exact: object) -> Squares:
    numbers = [base] if change is None else [change, base]
    if not all(isinstance(each, int | float) for each in numbers) or not isinstance(exact, bool):
        raise TypeError
    return Squares(change, base, exact)  # type: ignore[arg-type]


def _scales(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Tensor → scale that was chosen for it, of the tensors that are written."""
    found: dict[str, float] = {}
    for line in lines:
        scales = line.get("scales")
        for name, scale in (scales if isinstance(scales, dict) else {}).items():
            if isinstance(scale, float):
                found[name] = scale
    return found
