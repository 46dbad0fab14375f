"""Opening checkpoints and reading from them."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optmerge.checkpoints.adapters import Adapter, open_model
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.errors import CheckpointError

TENSORS = {
    "model.b": torch.arange(12, dtype=torch.float32).view(4, 3),
    "model.a": torch.arange(10, dtype=torch.bfloat16).view(5, 2),
    "model.c": torch.tensor(7, dtype=torch.int64),
    "model.d": torch.zeros(0, 4),
    "model.e": torch.tensor([True, False, True]),
}


def write_shards(folder: Path, shards: dict[str, dict[str, torch.Tensor]], **index: object) -> None:
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name, {"format": "pt"})
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map, **index}))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    items = list(TENSORS.items())
    shards = {"s1.safetensors": dict(items[:2]), "s2.safetensors": dict(items[2:])}
    write_shards(tmp_path / "model", shards, metadata={"total_size": 96.0})
    (tmp_path / "model" / "config.json").write_text('{"model_type": "toy"}')
    return tmp_path / "model"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_sharded_folder_reads_whole(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert list(checkpoint.tensors) == sorted(TENSORS)
    assert checkpoint.config == {"model_type": "toy"}
    assert checkpoint.index_total_size == 96
    with checkpoint.reader() as reader:
        for name, tensor in TENSORS.items():
            got = reader.read(name)
            assert got.dtype == tensor.dtype and torch.equal(got, tensor)


def test_a_shard_may_be_a_link_to_another_checkpoint_s(sharded: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "s1.safetensors").symlink_to(os.path.relpath(sharded / "s1.safetensors", other))
    for name in ("s2.safetensors", "model.safetensors.index.json"):
        (other / name).write_bytes((sharded / name).read_bytes())
    with open_checkpoint(sharded).reader() as one, open_checkpoint(other).reader() as linked:
        assert all(torch.equal(one.read(name), linked.read(name)) for name in TENSORS)


def test_a_folder_with_one_file_of_any_name_is_a_checkpoint(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.config is None
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in TENSORS.values())


def test_a_bare_file_is_a_checkpoint_without_config(single: Path) -> None:
    (single / "config.json").write_text("{}")
    checkpoint = open_checkpoint(single / "model.safetensors")
    assert checkpoint.config is None and checkpoint.folder is None and checkpoint.side_files == ()
    assert checkpoint.metadata == {"format": "pt"}


def test_rows_and_ranges_are_slices_of_the_tensor(single: Path) -> None:
    with open_checkpoint(single).reader() as reader:
        for name, tensor in TENSORS.items():
            for start in range(tensor.numel() + 1):
                for stop in range(start, tensor.numel() + 1):
                    assert torch.equal(reader.read_flat(name, start, stop), tensor.flatten()[start:stop])
            for stop in range(len(tensor) + 1 if tensor.dim() else 0):
                assert torch.equal(reader.read_rows(name, 0, stop), tensor[:stop])


@pytest.mark.parametrize("bounds", [(-1, 2), (3, 2), (0, 99)])
def test_a_range_outside_the_tensor_is_an_index_error(single: Path, bounds: tuple[int, int]) -> None:
    with open_checkpoint(single).reader() as reader:
        with pytest.raises(IndexError):
            reader.read_flat("model.b", *bounds)
        with pytest.raises(IndexError):
            reader.read_rows("model.b", *bounds)


def test_what_is_read_is_the_caller_s_own(single: Path) -> None:
    with open_checkpoint(single).reader() as reader:
        reader.read("model.b").fill_(0)
        assert torch.equal(reader.read("model.b"), TENSORS["model.b"])


def test_many_threads_may_read(sharded: Path) -> None:
    with open_checkpoint(sharded).reader() as reader, ThreadPoolExecutor(8) as pool:
        names = [name for name in TENSORS for _ in range(20)]
        assert all(
            torch.equal(got, TENSORS[name])
            for name, got in zip(names, pool.map(reader.read, names), strict=True)
        )


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_a_closed_reader_holds_no_files(sharded: Path) -> None:
    before = open_files()
    with open_checkpoint(sharded).reader() as reader:
        for name in TENSORS:
            reader.read(name)
        assert open_files() > before
    assert open_files() == before


def test_identity_sees_headers_and_names_content_hash_sees_all(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, fill, name in zip(folders, (1.0, 2.0, 1.0), ("m", "m", "n"), strict=True):
        folder.mkdir()
        save_file({"w": torch.full((3,), fill)}, folder / f"{name}.safetensors")
    one, filled, named = (open_checkpoint(folder) for folder in folders)
    assert one.identity() == filled.identity() != named.identity()
    assert one.content_hash() != filled.content_hash()
    assert one.content_hash() == open_checkpoint(folders[0]).content_hash()


def test_a_file_that_changed_since_it_was_opened_is_refused(single: Path) -> None:
    checkpoint = open_checkpoint(single)
    path = single / "model.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with checkpoint.reader() as reader, pytest.raises(CheckpointError, match="changed"):
        reader.read("model.a")


def test_a_pickle_is_refused_with_a_way_out(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="allow_pickle"):
        open_checkpoint(tmp_path)


def test_an_allowed_pickle_reads_like_safetensors(tmp_path: Path) -> None:
    torch.save({**TENSORS, "model.t": TENSORS["model.b"].T}, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path, allow_pickle=True)
    with checkpoint.reader() as reader:
        for name, tensor in TENSORS.items():
            assert torch.equal(reader.read(name), tensor)
        assert torch.equal(reader.read_flat("model.t", 2, 9), TENSORS["model.b"].T.flatten()[2:9])


def test_safetensors_win_over_a_pickle(single: Path) -> None:
    torch.save({}, single / "pytorch_model.bin")
    assert not open_checkpoint(single, allow_pickle=True).pickled


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.safetensors", "b.safetensors"], "several files"),
        (["model.safetensors", "model.safetensors.index.json"], "two checkpoints"),
        (["model.gguf"], "quantised for inference"),
        (["model.onnx", "tf_model.h5"], "save_pretrained"),
        (["notes.txt"], "notes.txt"),
        ([], "an empty folder"),
    ],
)
def test_a_folder_that_isn_t_one_checkpoint_says_why(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_adapters_are_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    factors = {"lora_A.weight": torch.ones(1, 3), "lora_B.weight": torch.ones(2, 1)}
    save_file(
        {f"base_model.model.q.{k}": v for k, v in factors.items()}, tmp_path / "adapter_model.safetensors"
    )
    assert isinstance(open_model(tmp_path), Adapter)
    with pytest.raises(CheckpointError, match="holds an adapter"):
        open_checkpoint(tmp_path)


def test_reading_agrees_with_the_library(single: Path) -> None:
    theirs = load_file(single / "model.safetensors")
    with open_checkpoint(single).reader() as reader:
        assert all(torch.equal(reader.read(name), tensor) for name, tensor in theirs.items())
