"""Our header parser and encoder against the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from optmerge.checkpoints.dtypes import DTYPES, dtype_name
from optmerge.checkpoints.safetensors_format import encode_header, read_header
from optmerge.errors import CheckpointError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
specs = st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=8)
metadata = st.none() | st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), max_size=3)
on_disk = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def zeros(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8).to(DTYPES[dtype].torch)


@on_disk
@given(specs=specs, metadata=metadata)
def test_what_is_encoded_is_what_is_read(tmp_path: Path, specs: dict, metadata: dict | None) -> None:
    header, begins = encode_header([(name, *rest) for name, rest in specs.items()], metadata)
    sizes = [torch.Size(shape).numel() * DTYPES[dtype].itemsize for dtype, shape in specs.values()]
    path = tmp_path / "x.safetensors"
    path.write_bytes(header + bytes(sum(sizes)))
    read = read_header(path)
    assert {name: (info.dtype, info.shape) for name, info in read.tensors.items()} == specs
    assert {name: info.begin for name, info in read.tensors.items()} == begins
    assert read.metadata == (metadata or {})
    assert len(header) % 8 == 0


@on_disk
@given(specs=specs)
def test_a_header_has_the_library_s_bytes(specs: dict) -> None:
    tensors = {name: zeros(*rest) for name, rest in specs.items()}
    theirs = save(tensors, {"format": "pt"})
    ours, _ = encode_header([(name, *rest) for name, rest in reversed(specs.items())], {"format": "pt"})
    if specs:  # without tensors the library (0.8) writes invalid JSON when there is metadata
        assert theirs[: len(ours)] == ours


@on_disk
@given(specs=specs)
def test_the_library_s_files_are_read_as_it_reads_them(tmp_path: Path, specs: dict) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: zeros(*rest) for name, rest in specs.items()}, path)
    with safe_open(path, "pt") as theirs:
        expected = {name: theirs.get_slice(name) for name in theirs.keys()}  # noqa: SIM118
        ours = read_header(path).tensors
        assert ours.keys() == expected.keys()
        for name, part in expected.items():
            assert (ours[name].dtype, list(ours[name].shape)) == (part.get_dtype(), part.get_shape())


def test_every_torch_type_of_the_library_is_known() -> None:
    from safetensors.torch import _TYPES

    ours = {name: dtype.torch for name, dtype in DTYPES.items()}
    assert {name: ours.get(name) for name in _TYPES} == _TYPES
    assert all(dtype_name(dtype) == name for name, dtype in ours.items())


def test_the_digest_depends_on_the_header_only(tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        save_file({"w": torch.full((2, 2), float(number))}, tmp_path / f"{number}.safetensors")
        digests.append(read_header(tmp_path / f"{number}.safetensors").digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("start", "guess"),
    [
        (b"PK\x03\x04" + bytes(60), "zip"),
        (b"\x80\x02}q\x00." + bytes(60), "pickle"),
        (b"GGUF\x03\0\0\0" + bytes(60), "GGUF"),
        (b"<!DOCTYPE html><html>" + bytes(60), "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (json.dumps({"weights": "elsewhere"}).encode(), "JSON"),
    ],
)
def test_another_format_is_named_in_the_error(tmp_path: Path, start: bytes, guess: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=guess):
        read_header(path)
