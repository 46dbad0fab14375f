"""References: local paths win, cached hub ids work offline, everything else is explained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save

from optmerge.checkpoints.adapters import open_model
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.hub import hub_id, locate, looks_like_hub_id
from optmerge.checkpoints.side_files import copy_side_files
from optmerge.errors import AdapterError, CheckpointError, RunError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline machine whose cache holds one repository, laid out as huggingface_hub does it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / REVISION
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    files = {"model.safetensors": save({"w": torch.ones(2)}), "config.json": b"{}", "tokenizer.json": b"[]"}
    for number, (name, content) in enumerate(files.items()):
        (repository / "blobs" / f"{number}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    monkeypatch.chdir(tmp_path)
    return repository


@pytest.mark.parametrize("ref", ["org/tiny", "org/tiny@main", f"org/tiny@{REVISION}"])
def test_a_cached_repository_opens_offline(ref: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(ref)
    assert checkpoint.ref == ref and list(checkpoint.tensors) == ["w"] and checkpoint.config == {}
    with checkpoint.reader() as reader:
        assert torch.equal(reader.read("w"), torch.ones(2))
    (tmp_path / "out").mkdir()
    copy_side_files(checkpoint.path, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"[]"
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()


def test_a_snapshot_may_not_link_into_another_repository(cache: Path) -> None:
    other = cache.parent / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_bytes(save({"w": torch.zeros(2)}))
    link = cache / "snapshots" / REVISION / "model.safetensors"
    link.unlink()
    link.symlink_to(other / "0")
    with pytest.raises(CheckpointError, match="outside"):
        open_checkpoint("org/tiny")


@pytest.mark.parametrize("ref", ["org/other", "org/tiny@nightly"])
def test_a_repository_that_isn_t_cached_says_how_to_get_it(ref: str) -> None:
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        open_checkpoint(ref)


def test_a_local_path_wins_over_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert locate("org/tiny") == Path("org/tiny")


@pytest.mark.parametrize("ref", ["./qwen-ocrr", "qwen-ocrr", "/nonexistent/x", "a/b/c", Path("x")])
def test_a_missing_path_is_no_hub_id(ref: str | Path, tmp_path: Path) -> None:
    (tmp_path / "qwen-ocr").mkdir()
    with pytest.raises(CheckpointError, match="no such checkpoint") as caught:
        locate(ref)
    assert ("qwen-ocr?" in str(caught.value)) == ("qwen" in str(ref))


def test_a_misspelt_local_folder_of_two_parts_is_not_looked_up(tmp_path: Path) -> None:
    (tmp_path / "experts" / "ocr-v1").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="ocr-v1"):
        locate("experts/ocr-v2")


@pytest.mark.parametrize(
    ("ref", "answer"),
    [
        *[(ref, True) for ref in ("org/name", "org/name@main", "o/n@refs/pr/1", "Org-1/Name_2.5-x")],
        *[(ref, False) for ref in ("name", "./a", "/a/b", "../a", "a/b/c", "a/..", "~/a", "", "a b/c")],
    ],
)
def test_hub_ids_are_told_by_their_form(ref: str, answer: bool) -> None:
    assert looks_like_hub_id(ref) is answer


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (GatedRepoError, "hf auth login"),
        (RepositoryNotFoundError, "spelling"),
        (RevisionNotFoundError, "revision"),
    ],
)
def test_the_hub_s_refusals_become_advice(
    problem: type[HfHubHTTPError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, problem)
    with pytest.raises(CheckpointError, match=message):
        locate("org/secret@v1")


def test_a_failing_download_isn_t_the_user_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, HfHubHTTPError)
    with pytest.raises(RunError, match="org/secret"):
        locate("org/secret")


def answer(monkeypatch: pytest.MonkeyPatch, problem: type[HfHubHTTPError]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise problem("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


def test_pickles_are_fetched_only_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *_, ignore_patterns, **__: asked.append(ignore_patterns) or "x",
    )
    locate("org/secret")
    locate("org/secret", allow_pickle=True)
    assert ["*.bin" in patterns for patterns in asked] == [True, False]


@pytest.mark.parametrize("files", [(), ("pytorch_model.bin.index.json",)])
def test_a_repository_of_pickles_says_how_they_are_allowed(cache: Path, files: tuple[str, ...]) -> None:
    (cache / "snapshots" / REVISION / "model.safetensors").unlink()
    for name in files:
        (cache / "snapshots" / REVISION / name).write_text("{}")
    with pytest.raises(CheckpointError, match="allow_pickle: true"):
        open_checkpoint("org/tiny")


def test_an_adapter_of_pickles_says_how_they_are_allowed(cache: Path) -> None:
    snapshot = cache / "snapshots" / REVISION
    (snapshot / "model.safetensors").unlink()
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "target_modules": ["q_proj"]}
    (snapshot / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="allow_pickle: true"):
        open_model("org/tiny")


def test_a_snapshot_is_known_by_id_and_commit(cache: Path, tmp_path: Path) -> None:
    assert hub_id(cache / "snapshots" / REVISION) == f"org/tiny@{REVISION}"
    assert hub_id(cache / "snapshots" / REVISION / "model.safetensors") == f"org/tiny@{REVISION}"
    assert hub_id(tmp_path) is None


def test_weights_in_pickles_are_not_downloaded_and_what_processors_need_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *_, ignore_patterns, **__: asked.append(ignore_patterns) or str(tmp_path),
    )
    locate("org/other")
    names = ["spk_dict.pt", "pytorch_model.bin", "pytorch_model-1.pt", "consolidated.00.pth", "model.pt"]

    assert list(filter_repo_objects(names, ignore_patterns=asked[0])) == ["spk_dict.pt"]
