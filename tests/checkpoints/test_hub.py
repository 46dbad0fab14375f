"""References: local paths win, cached hub ids work offline, everything else is explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import _tree_cache
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import save

from optmerge.checkpoints.adapters import Adapter, open_model
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.hub import hub_id, left_on_the_hub, locate, looks_like_hub_id
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


def an_adapter(cache: Path, files: list[str]) -> Path:
    """The cached repository as an adapter; the hub holds these files, too, which weren't fetched."""
    snapshot = cache / "snapshots" / REVISION
    (snapshot / "model.safetensors").unlink()
    key = "base_model.model.w.lora_{}.weight"
    factors = {key.format("A"): torch.ones(1, 2), key.format("B"): torch.ones(3, 1)}
    (snapshot / "adapter_model.safetensors").write_bytes(save(factors))
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["w"]}
    (snapshot / "adapter_config.json").write_text(json.dumps(settings))
    held = [*(path.name for path in snapshot.iterdir()), *files]
    tree = {name: TreeCacheEntry(1, "0" * 40, None, None, None) for name in held}
    write_tree_cache(str(cache), REVISION, tree)
    return snapshot


TRAINED = "non_lora_state_dict.bin"


@pytest.mark.parametrize("ref", ["org/tiny", "folder"])
def test_a_pickle_beside_an_adapter_that_was_not_fetched_is_refused_by_its_name(
    cache: Path, ref: str
) -> None:
    snapshot = an_adapter(cache, [TRAINED, "adapter_model.bin", "training_args.bin", "sub/other.bin"])
    with pytest.raises(AdapterError, match=r"allow_pickle: true.*\['\^non_lora") as caught:
        open_model("org/tiny" if ref == "org/tiny" else snapshot)
    assert caught.value.got == TRAINED
    assert open_model("org/tiny", ignored=[re.compile(f"^{TRAINED}$")])


def test_pickles_of_a_folder_of_the_repository_are_those_in_it(cache: Path) -> None:
    snapshot = an_adapter(cache, ["sub/other.bin", "other.pth", "optimizer.bin"])
    (snapshot / "sub").mkdir()
    assert left_on_the_hub(snapshot) == ("other.pth",)
    assert left_on_the_hub(snapshot / "sub") == ("other.bin",)
    assert left_on_the_hub(cache.parent) == ()


def test_an_adapter_whose_repository_has_nothing_else_opens(cache: Path) -> None:
    an_adapter(cache, ["optimizer.pt", "checkpoint-1/non_lora_state_dict.bin", "adapter_model.bin"])
    adapter = open_model("org/tiny")
    assert isinstance(adapter, Adapter) and adapter.listed


@pytest.mark.parametrize("tree", [None, "{", '{"format_version": 1}'])
def test_an_adapter_whose_repository_has_no_list_of_files_says_so(cache: Path, tree: str | None) -> None:
    an_adapter(cache, [])
    (cache / "trees" / f"{REVISION}.json").unlink()
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    if tree is not None:
        (cache / "trees" / f"{REVISION}.json").write_text(tree)
    adapter = open_model("org/tiny")
    assert isinstance(adapter, Adapter) and not adapter.listed


def test_a_pickle_that_is_allowed_and_not_in_the_cache_needs_the_hub(cache: Path) -> None:
    an_adapter(cache, [TRAINED])
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        open_model("org/tiny", allow_pickle=True)


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
