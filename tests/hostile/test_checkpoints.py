"""Hostile and damaged checkpoints: each is a CheckpointError, soon and in little memory."""

from __future__ import annotations

import json
import os
import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.safetensors_format import read_header
from optmerge.errors import CheckpointError


def file_bytes(header: Any, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def two(begin: int, end: int) -> bytes:
    return file_bytes({"a": entry(), "b": entry(offsets=(begin, end))}, bytes(16))


GOOD = save({"w": torch.arange(6, dtype=torch.float32).view(2, 3), "v": torch.ones(3, dtype=torch.float16)})
ONE = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
TWICE = b"{" + ONE + b"," + ONE + b"}"

FILES: dict[str, bytes] = {
    "empty": b"",
    "shorter than a length": b"\x01\0\0",
    "only a length": (0).to_bytes(8, "little"),
    "a header longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "a header of 2⁶⁴ bytes": b"\xff" * 8 + b"{}",
    "a header above the limit": (100_000_001).to_bytes(8, "little") + b"{}",
    "truncated in the header": GOOD[:40],
    "truncated in the data": GOOD[:-1],
    "bytes after the end": GOOD + b"\0",
    "an overlap": two(4, 12),
    "one place for two": two(0, 8),
    "a gap": two(12, 20),
    "a gap at the start": file_bytes({"a": entry(offsets=(1, 9))}, bytes(9)),
    "negative offsets": file_bytes({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "reversed offsets": file_bytes({"a": entry(offsets=(8, 0))}, bytes(8)),
    "offsets beyond the file": file_bytes({"a": entry(offsets=(0, 2**40), shape=(2**38,))}, bytes(8)),
    "offsets beyond 2⁶⁴": file_bytes({"a": entry(offsets=(2**64, 2**64 + 8))}, bytes(8)),
    "one offset": file_bytes({"a": entry(offsets=(0,))}, bytes(8)),
    "fractional offsets": file_bytes({"a": entry(offsets=(0.0, 8.0))}, bytes(8)),
    "boolean offsets": file_bytes({"a": entry("U8", (1,), (False, True))}, bytes(1)),
    "a negative size": file_bytes({"a": entry(shape=(-2,))}, bytes(8)),
    "two negative sizes": file_bytes({"a": entry(shape=(-1, -2))}, bytes(8)),
    "a fractional size": file_bytes({"a": entry(shape=(2.0,))}, bytes(8)),
    "a boolean size": file_bytes({"a": entry(shape=(2, True))}, bytes(8)),
    "a size as text": file_bytes({"a": entry(shape="2")}, bytes(8)),
    "a size that overflows": file_bytes({"a": entry(shape=(2**62, 4, 0), offsets=(0, 0))}),
    "sizes without end": file_bytes({"a": entry(shape=[1] * 1000 + [2])}, bytes(8)),
    "a wrong size for the dtype": file_bytes({"a": entry("F64")}, bytes(8)),
    "an unknown dtype": file_bytes({"a": entry("F4", (16,))}, bytes(8)),
    "a dtype that isn't text": file_bytes({"a": entry(["F32"])}, bytes(8)),
    "an entry that isn't an object": file_bytes({"a": [1, 2]}),
    "an entry with a part missing": file_bytes({"a": {"dtype": "F32", "shape": []}}),
    "an entry with an unknown part": file_bytes({"a": {**entry(), "stride": [1]}}, bytes(8)),
    "a name twice": file_bytes(TWICE, bytes(1)),
    "a field twice": file_bytes(
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)
    ),
    "a lone surrogate": file_bytes(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)),
    "a name without end": file_bytes({"w" * 1001: entry()}, bytes(8)),
    "metadata of numbers": file_bytes({"__metadata__": {"a": 1}}),
    "metadata with half a character": file_bytes({"__metadata__": {"a\ud800": ""}}),
    "metadata that isn't an object": file_bytes({"__metadata__": ["a"]}),
    "a list": file_bytes([]),
    "a number": file_bytes(b"12345678"),
    "no JSON": file_bytes(b'{"a": '),
    "two values": file_bytes(b"{} {}"),
    "a byte order mark": file_bytes(b"\xef\xbb\xbf{}"),
    "UTF-16": file_bytes("{}".encode("utf-16")),
    "not UTF-8": file_bytes(b'{"\xff\xfe":{}}'),
    "deep nesting": file_bytes(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "deep nesting of objects": file_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a number of many digits": file_bytes(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,1]}}'
    ),
    "a pickle": pickle.dumps({"w": [1.0] * 100}),
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "a web page": b"<html><body>Please log in</body></html>",
    "zeros": bytes(4096),
}


@pytest.fixture
def bounded() -> Iterator[None]:
    """At most 32 MiB of Python memory and a few seconds."""
    tracemalloc.start()
    start = time.process_time()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
    assert time.process_time() - start < 10


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_malformed_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.usefixtures("bounded")
def test_a_huge_sparse_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((99_999_999).to_bytes(8, "little"))
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(tmp_path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_header_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(damaged))
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert all(0 < info.begin <= info.end <= len(GOOD) for info in header.tensors.values())


def shards(folder: Path, index: Any, **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    (folder / "model.safetensors.index.json").write_bytes(text)
    return folder


W = {"w": torch.ones(2)}
V = {"v": torch.ones(2)}

NAMES = [
    "../s.safetensors",
    "/etc/s.safetensors",
    "a/../../s.safetensors",
    "..",
    ".",
    "",
    "..\\s.safetensors",
    "C:\\s.safetensors",
    "./s.safetensors",
    "a//s.safetensors",
    "s.safetensors\0",
    "missing.safetensors",
    "s.bin",
    "x" * 5000 + ".safetensors",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:30]))
def test_a_shard_name_that_isn_t_a_file_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(W, tmp_path / "s.safetensors")
    folder = shards(tmp_path / "model", {"weight_map": {"w": name}}, s=W)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


INDEXES: dict[str, Any] = {
    "a list": [],
    "no weight_map": {},
    "a weight_map that isn't an object": {"weight_map": [["w", "s.safetensors"]]},
    "a file name that isn't text": {"weight_map": {"w": 1}},
    "a name twice": b'{"weight_map":{"w":"s.safetensors","w":"t.safetensors"}}',
    "not JSON": b"{",
    "not UTF-8": b'{"weight_map":{"\xff":"s.safetensors"}}',
    "deep nesting": b'{"a":' + b"[" * 200_000,
    "a tensor that isn't in its shard": {
        "weight_map": {"w": "s.safetensors", "x": "s.safetensors", "v": "t.safetensors"}
    },
    "a tensor that isn't in the index": {"weight_map": {"w": "s.safetensors"}},
    "tensors in the other shard": {"weight_map": {"w": "t.safetensors", "v": "s.safetensors"}},
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_a_wrong_index_is_refused(index: Any, tmp_path: Path) -> None:
    both = {**W, "v": V["v"]}
    folder = shards(
        tmp_path, index, s=both if index == INDEXES["a tensor that isn't in the index"] else W, t=V
    )
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    weight_map = {"w": "s.safetensors", "v": "t.safetensors"}
    folder = shards(tmp_path, {"weight_map": weight_map}, s=W, t={**W, **V})
    with pytest.raises(CheckpointError, match="two shards"):
        open_checkpoint(folder)


def link_out(folder: Path) -> None:
    save_file(W, folder.parent / "secret")
    (folder / "model.safetensors").symlink_to(folder.parent / "secret")


def link_out_by_index(folder: Path) -> None:
    save_file(W, folder.parent / "secret")
    (folder / "s.safetensors").symlink_to("../secret")
    shards(folder, {"weight_map": {"w": "s.safetensors"}})


def link_config_out_through_a_folder(folder: Path) -> None:
    save_file(W, folder / "model.safetensors")
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "config.json").write_text("{}")
    (folder / "sub").symlink_to("../outside")
    (folder / "config.json").symlink_to("sub/config.json")


def link_config_out(folder: Path) -> None:
    save_file(W, folder / "model.safetensors")
    (folder.parent / "secret").write_text("{}")
    (folder / "config.json").symlink_to("../secret")


def link_in_a_circle(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("model.safetensors")


def folder_for_a_file(folder: Path) -> None:
    (folder / "model.safetensors").mkdir()


def pipe_for_a_file(folder: Path) -> None:
    os.mkfifo(folder / "model.safetensors")


def device_for_a_file(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("/dev/zero")


def bad_config(folder: Path) -> None:
    save_file(W, folder / "model.safetensors")
    (folder / "config.json").write_text("[1]")


@pytest.mark.parametrize(
    "prepare",
    [
        link_out,
        link_out_by_index,
        link_config_out,
        link_config_out_through_a_folder,
        link_in_a_circle,
        folder_for_a_file,
        pipe_for_a_file,
        device_for_a_file,
        bad_config,
    ],
)
def test_a_folder_with_a_trap_is_refused(prepare: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4), "z": torch.ones(1 << 20)}, path)
    with open_checkpoint(path).reader() as reader:
        reader.read("a")
        os.truncate(path, 100_000)
        with pytest.raises(CheckpointError, match="ended inside tensor z"):
            reader.read("z")


class Exploit:
    """Runs a command when unpickled the ordinary way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_runs_no_code_even_when_allowed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    torch.save({"w": Exploit(tmp_path / "harmed")}, tmp_path / "model" / "pytorch_model.bin")
    for allow_pickle in (False, True):
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "model", allow_pickle=allow_pickle)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("state", [[torch.ones(2)], {"w": 1}, {"w": {"v": torch.ones(2)}}, torch.ones(2)])
def test_a_pickle_that_isn_t_a_state_dict_is_refused(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="state dict"):
        open_checkpoint(tmp_path, allow_pickle=True)
