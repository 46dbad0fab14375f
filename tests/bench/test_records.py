"""Files of records: appended to by several processes, cut off by killed ones, read as they were written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from optmerge.bench import records
from optmerge.checkpoints import locks
from optmerge.errors import CheckpointError, InputError, OptMergeError, OutputError


def made(number: int = 0, words: str = "") -> records.Record:
    config = {"number": number, "words": words}
    return records.new(kind="some/kind", config=config, seeds={}, metrics={}, cost={}, weights={})


def numbers(file: Path) -> list[int]:
    return [record.config["number"] for record in records.read(file)]


def test_records_come_back_as_they_were_written_one_a_line_oldest_first(tmp_path: Path) -> None:
    file, written = tmp_path / "new/some.jsonl", [made(number, "two\nlines\u2028") for number in range(3)]
    for record in written:
        before = file.read_bytes() if file.exists() else b""
        records.append(record, file)
        assert file.read_bytes().startswith(before)
    assert records.read(file) == written and len(file.read_bytes().splitlines()) == 3


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no `flock`."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def _append(file: Path, first: int) -> None:
    for number in range(first, first + 100):
        records.append(made(number, "x" * 5000), file)


@pytest.mark.parametrize("system", ["flock", "none"])
def test_processes_that_append_at_the_same_time_lose_nothing(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "none":
        without_flock(monkeypatch)
    context, file = multiprocessing.get_context("fork"), tmp_path / "some.jsonl"
    processes = [context.Process(target=_append, args=(file, first)) for first in (0, 100, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = numbers(file)
    assert sorted(found) == list(range(300))
    assert [number for number in found if number < 100] == list(range(100))


def test_without_flock_a_writer_waits_for_another_and_readers_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    file = tmp_path / "some.jsonl"
    records.append(made(), file)
    assert numbers(file) == [0] and list(tmp_path.iterdir()) == [file]

    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    with (
        file.open("ab") as opened,
        locks.waited_for(opened, file),
        pytest.raises(OutputError, match="another process is writing") as found,
    ):
        records.append(made(1), file)
    assert str(os.getpid()) in str(found.value.got) and "remove" in str(found.value.hint)
    records.append(made(2), file)
    assert numbers(file) == [0, 2]


@pytest.mark.parametrize("left", [1, 10, -2])
def test_a_last_line_that_is_cut_off_is_passed_over_and_removed(tmp_path: Path, left: int) -> None:
    file = tmp_path / "some.jsonl"
    for number in range(2):
        records.append(made(number), file)
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:left])
    assert numbers(file) == [0]
    records.append(made(7), file)
    assert numbers(file) == [0, 7] and file.read_bytes().startswith(first)


def test_of_a_file_that_is_cut_off_in_its_first_line_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b'{"kind": "so')
    assert numbers(file) == []
    records.append(made(3), file)
    assert numbers(file) == [3]


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    records.append(made(1), file)
    file.write_bytes(file.read_bytes().rstrip())
    assert numbers(file) == [1]
    records.append(made(2), file)
    assert numbers(file) == [1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"kind": "some/kind"', "isn't a benchmark record"),
        ("[]", "isn't a benchmark record"),
        ("", "isn't a benchmark record"),
        (json.dumps({"kind": "some/kind", "config": {}}), "isn't a benchmark record"),
    ],
)
def test_a_line_in_the_middle_that_is_no_record_is_refused_with_its_number(
    tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "some.jsonl"
    records.append(made(), file)
    file.write_text(f"{file.read_text()}{line}\n{file.read_text()}")
    with pytest.raises(InputError) as caught:
        records.read(file)
    assert f"{file}, line 2" in str(caught.value) and words in str(caught.value)


def test_records_of_another_schema_or_with_fields_of_another_type_are_refused(tmp_path: Path) -> None:
    for field, value, words in (("schema", 1, "another schema"), ("cost", [], "wrong type")):
        file = tmp_path / f"{field}.jsonl"
        records.append(replace(made(), **{field: value}), file)
        with pytest.raises(InputError, match=words):
            records.read(file)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptMergeError, match=str(tmp_path / "file")):
        records.append(made(), tmp_path / "file" / "some.jsonl")


def test_the_hash_of_weights_takes_little_memory_however_large_they_are(tmp_path: Path) -> None:
    size = 64 << 20
    for name in ("b", "a"):
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.write(name.encode())
            file.truncate(size)
    tracemalloc.start()
    try:
        found = records.weights_hash(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expected = hashlib.sha256()
    for name in ("a", "b"):
        expected.update((tmp_path / f"{name}.safetensors").read_bytes())
    assert found == expected.hexdigest() and peak < size / 8


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        records.weights_hash(tmp_path)


def test_every_shipped_file_of_records_can_be_read() -> None:
    [bench] = records.shipped("bench")
    files = [*bench.rglob("*.jsonl"), *bench.with_name("omni").rglob("*.jsonl")]
    assert len(files) == 5 and all(records.read(file) for file in files)
