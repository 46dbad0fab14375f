"""Which files travel with a merged model, and how far links are followed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from optmerge.checkpoints import side_files
from optmerge.checkpoints.side_files import copy_side_files, list_side_files
from optmerge.errors import CheckpointError

KEPT = [
    "LICENSE",
    "NOTICE",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "modeling_internvl.py",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
]
LEFT_OUT = [
    ".gitattributes",
    ".cache/huggingface/x",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "checkpoint-500/tokenizer.json",
    "events.out.tfevents.1",
    "flax_model.msgpack",
    "model-00001-of-00002.safetensors",
    "model.gguf",
    "model.safetensors.index.json",
    "model.safetensors.partial",
    "onnx/model.onnx",
    "onnx/config.json",
    "optimizer.pt",
    "optmerge.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "rng_state_0.pth",
    "runs/today/log",
    "scheduler.pt",
    "tf_model.h5",
    "trainer_state.json",
    "training_args.bin",
]


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    for name in KEPT + LEFT_OUT:
        path = tmp_path / "donor" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "donor"


def test_side_files_are_everything_but_weights_and_leftovers(donor: Path) -> None:
    assert [str(path) for path in list_side_files(donor)] == KEPT


def test_side_files_are_copied_with_their_folders(donor: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    copied = copy_side_files(donor, tmp_path / "out")
    assert [str(path) for path in copied] == KEPT
    assert all((tmp_path / "out" / name).read_text() == name for name in KEPT)


def test_a_side_file_that_leads_outside_is_refused_before_any_is_copied(donor: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (donor / "vocab.json").unlink()
    (donor / "vocab.json").symlink_to(secret)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="outside"):
        copy_side_files(donor, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_a_linked_folder_is_not_entered(donor: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.txt").write_text("x")
    (donor / "more").symlink_to(tmp_path / "elsewhere")
    assert [str(path) for path in list_side_files(donor)] == KEPT


def test_a_pipe_is_refused_rather_than_waited_for(donor: Path, tmp_path: Path) -> None:
    os.mkfifo(donor / "zz_pipe")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="pipe"):
        copy_side_files(donor, tmp_path / "out")


# --- tensors that aren't weights


SPEAKERS = {"Chelsie": {"cond": torch.ones(3), "bos_token": 7}}
STATE = {"layers.0.weight": torch.ones(3)}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_a_processor_needs_are_carried_and_weights_are_not(tmp_path: Path, legacy: bool) -> None:
    files = {
        "spk_dict.pt": SPEAKERS,
        "voices/af.pt": torch.ones(3),
        "expert.pt": STATE,
        "pytorch_model.pt": SPEAKERS,
        "module.pth": torch.nn.Linear(1, 1),
    }
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    np.savez(tmp_path / "en_speaker_0.npz", semantic_prompt=np.ones(3))
    np.savez(tmp_path / "mlx.npz", **{"layers.0.weight": np.ones(3)})

    assert list(map(str, list_side_files(tmp_path))) == ["en_speaker_0.npz", "spk_dict.pt", "voices/af.pt"]


def test_what_is_carried_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "bomb.pt").write_bytes(b"cbuiltins\nexec\n(Vraise SystemExit\ntR.")
    (tmp_path / "cut.pt").write_bytes(b"\x80\x02X\xff\xff\xff\xff")
    (tmp_path / "empty.pt").touch()

    assert len(list_side_files(tmp_path)) == 3


def test_large_tensors_are_weights_whatever_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SPEAKERS, tmp_path / "spk_dict.pt")
    monkeypatch.setattr(side_files, "_LARGEST_ARCHIVE_BYTES", 100)

    assert list_side_files(tmp_path) == []
