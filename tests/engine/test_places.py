"""Merges on file systems that lack something, from paths that look like something else."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest
import torch

import optmerge
from optmerge.checkpoints import output_files, reader
from optmerge.errors import AdapterError, CheckpointError, OptMergeError, OutputError
from worlds.merges import NORM, QUERY, World, contents, load, save, save_adapter, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def refuse(code: int) -> object:
    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


# --- file systems


def test_a_merge_needs_no_flock(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    optmerge.merge(models.recipe(), models.out)

    assert not (models.out / ".optmerge").exists()


def test_without_flock_a_second_merge_is_told_who_writes(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOSYS))
    (models.out / ".optmerge").mkdir(parents=True)
    (models.out / ".optmerge" / "lock.owner").write_text('{"host": "node7", "process": 12}')
    with pytest.raises(OutputError, match="node7"):
        optmerge.merge(models.recipe(), models.out, optmerge.Options(mode="resume"))


def test_a_lock_that_fails_leaves_nothing(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OptMergeError):
        optmerge.merge(models.recipe(), models.out)

    assert not models.out.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_folders_need_not_be_synced_but_must_not_fail(
    code: int, models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if code == errno.EIO:
        with pytest.raises(OptMergeError, match="failed"):
            optmerge.merge(models.recipe(), models.out)
    else:
        optmerge.merge(models.recipe(), models.out)


def test_no_call_moves_more_than_the_system_lets_it(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = optmerge.merge(models.recipe(), models.root / "whole").path
    read, write, limit = os.preadv, os.pwrite, 24

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if sum(map(len, buffers)) > limit:  # as macOS does beyond 2 GiB
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return read(descriptor, [buffers[0][:7]], offset)  # a short read is allowed, too

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if len(data) > limit:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(descriptor, data, offset)

    for module in (reader, output_files):
        monkeypatch.setattr(module, "LARGEST_CALL", limit)
    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pwrite", pwrite)
    pieces = optmerge.merge(models.recipe(), models.out).path

    assert contents(pieces) == contents(whole)


# --- paths


@pytest.mark.parametrize("base", ["models/llama", "./models/llama", "~/models/llama"])
@pytest.mark.parametrize("theirs", ["meta-llama/Llama-3.2-1B", "out/stage1", "models/llama"])
def test_a_folder_that_looks_like_a_hub_id_is_a_folder(
    base: str, theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = world(tmp_path, experts=0)
    (tmp_path / "models").mkdir()
    models.base.rename(tmp_path / "models" / "llama")
    adapter = save_adapter(tmp_path / "a", (QUERY,))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": theirs}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = models.recipe(base=base, experts=["./a"])

    assert optmerge.plan(recipe).counts()["merge"]


def test_two_models_of_the_hub_are_still_told_apart(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    config = json.loads((models.base / "config.json").read_text())
    (models.base / "config.json").write_text(json.dumps(config | {"_name_or_path": "org/ours"}))
    adapter = save_adapter(tmp_path / "a", (QUERY,))
    theirs = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(theirs | {"base_model_name_or_path": "org/other"})
    )
    with pytest.raises(AdapterError, match="another base"):
        optmerge.plan(models.recipe(experts=[str(adapter)]))


def test_a_home_that_nobody_knows_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        optmerge.plan({"base": "~nobody-of-this-name/m", "experts": ["e"], "method": "average"})


# --- values that aren't finite, in tensors that are copied


def broken_base(models: World, name: str, *values: float) -> None:
    tensors = load(models.base)
    for index, value in enumerate(values):
        tensors[name].flatten()[index] = value
    save(models.base, tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_copied_tensor_with_nan_is_refused_by_name_file_and_count(models: World, value: float) -> None:
    broken_base(models, NORM, value, value)
    with pytest.raises(CheckpointError, match=NORM) as problem:
        optmerge.merge(models.recipe(), models.out)

    words = str(problem.value)
    assert "model.safetensors" in words and "2" in str(problem.value.got) and "allow_nonfinite" in words
    assert not models.out.exists()


def test_a_nan_that_is_allowed_is_copied_and_told_of(models: World) -> None:
    broken_base(models, NORM, float("nan"))
    done = optmerge.merge(models.recipe(allow_nonfinite=True), models.out)

    assert any(NORM in words and "1 NaN" in words for words in done.warnings)
    assert bool(load(models.out)[NORM][0].isnan())
    found = optmerge.verify(models.out, base=models.base, load=False)
    assert found.ok, found.checks


def test_what_is_merged_is_finite_whatever_is_allowed(models: World) -> None:
    broken_base(models, QUERY, float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        optmerge.merge(models.recipe(allow_nonfinite=True), models.out)


CONSTANT = "model.layers.0.self_attn.q_proj.input_max"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinite_constants_of_the_base_pass_and_a_nan_does_not(tmp_path: Path, value: float) -> None:
    models = world(tmp_path)
    for folder in (models.base, *(Path(str(each)) for each in models.recipe()["experts"])):
        save(folder, {**load(folder), CONSTANT: torch.tensor(value)})
    if value != value:
        with pytest.raises(CheckpointError, match="input_max"):
            optmerge.merge(models.recipe(), models.out)
        return
    done = optmerge.merge(models.recipe(), models.out)

    assert float(load(models.out)[CONSTANT]) == value
    found = optmerge.verify(models.out, base=models.base, load=False)
    assert found.ok and not any("input_max" in words for words in done.warnings), found.checks
