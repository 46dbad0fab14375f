"""The packer of the zoo: every model of a line as it was, what the models share stored once."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from optmerge.checkpoints.checkpoint import open_checkpoint

ROOT = Path(__file__).parents[1]
pack = runpy.run_path(str(ROOT / "zoo" / "pack.py"))["pack"]


def model(folder: Path, layer: float) -> dict[str, torch.Tensor]:
    tensors = {"tower": torch.arange(4.0), "layer": torch.full((2, 2), layer)}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return tensors


def test_a_packed_line_reads_as_it_was_and_stores_once_what_its_models_share(tmp_path: Path) -> None:
    trained, zoo = tmp_path / "out", tmp_path / "zoo"
    places = {"base": "base", "ocr": "experts/0/ocr", "vqa": "experts/0/vqa", "mixture": "mixture"}
    want = {place: model(trained / stage, number) for number, (stage, place) in enumerate(places.items())}
    model(trained / "answering", 9.0)
    (trained / "work").mkdir()
    pack(trained, zoo)
    assert {str(path.parent.relative_to(zoo)) for path in zoo.rglob("config.json")} == set(want)
    for place, tensors in want.items():
        with open_checkpoint(zoo / place).reader() as reader:
            assert all(torch.equal(reader.read(name), value) for name, value in tensors.items())
    stored = [path for path in zoo.rglob("*.safetensors") if not path.is_symlink()]
    assert sum("tower" in load_file(path) for path in stored) == 1


def test_adapters_are_packed_as_they_are_but_for_where_their_base_is(tmp_path: Path) -> None:
    trained, zoo = tmp_path / "out", tmp_path / "zoo"
    model(trained / "base", 0.0)
    (trained / "ocr").mkdir()
    (trained / "ocr" / "adapter_model.safetensors").write_bytes(b"adapter")
    (trained / "ocr" / "adapter_config.json").write_text('{"base_model_name_or_path": "../base", "r": 4}')
    pack(trained, zoo)
    config = json.loads((zoo / "experts" / "0" / "ocr" / "adapter_config.json").read_text())
    assert config == {"base_model_name_or_path": "../../../base", "r": 4}
    assert (zoo / "experts" / "0" / "ocr" / "adapter_model.safetensors").read_bytes() == b"adapter"
    weights = zoo / "base" / "model.safetensors"
    assert weights.read_bytes() == (trained / "base" / "model.safetensors").read_bytes()


def test_adapters_without_their_base_are_packed_too(tmp_path: Path) -> None:
    (tmp_path / "out" / "ocr").mkdir(parents=True)
    (tmp_path / "out" / "ocr" / "adapter_model.safetensors").write_bytes(b"adapter")
    pack(tmp_path / "out", tmp_path / "zoo")
    assert (tmp_path / "zoo/experts/0/ocr/adapter_model.safetensors").read_bytes() == b"adapter"
