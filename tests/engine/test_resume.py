"""Interrupted merges continue to the same bytes, and what was in the folder before is never harmed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import optmerge
from optmerge import Options
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.engine.output import dense as dense_output
from optmerge.engine.output import folder as state
from optmerge.engine.plan import TensorPlan
from optmerge.errors import InputError, OutputError
from worlds.commands import Command, Commands
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    QUERY,
    World,
    contents,
    load,
    save_adapter,
    watching,
    weights,
    world,
)


class Stop(BaseException):
    """Neither an `Exception` nor anything the engine knows, as a signal's would be."""


@pytest.fixture(autouse=True)
def sync_after_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_output, "SYNC_SECONDS", 0.0)


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path, files={"tokenizer_config.json": {}})


SHARDED = {"output": {"shard_size": 700}, "method": {"name": "dare_ties", "keep": 0.5}}


def interrupted(models: World, after: int, mode: state.Mode = "new", **changes: Any) -> None:
    """A merge stopped once so many tensors are written."""
    left = after

    def count(tensor: TensorPlan, size: int) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Stop

    with pytest.raises(Stop):
        optmerge.merge(models.recipe(**changes), models.out, Options(mode=mode), watching(count))


def uninterrupted(models: World, **changes: Any) -> dict[str, bytes]:
    return contents(optmerge.merge(models.recipe(**changes), models.root / "whole").path)


@pytest.mark.parametrize("changes", [{}, SHARDED], ids=["one file", "shards"])
@pytest.mark.parametrize("after", [1, 2, 5, 8, 11])
def test_a_resumed_merge_ends_with_the_same_bytes(models: World, after: int, changes: dict[str, Any]) -> None:
    interrupted(models, after, **changes)
    result = optmerge.merge(models.recipe(**changes), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models, **changes)
    assert result.resumed_tensors >= after - 1


def test_a_merge_may_be_interrupted_again_and_again(models: World) -> None:
    interrupted(models, 2)
    for _ in range(4):
        interrupted(models, 2, mode="resume")
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


def test_resuming_writes_no_tensor_twice(models: World) -> None:
    interrupted(models, 5)
    told: list[str] = []
    optmerge.merge(
        models.recipe(),
        models.out,
        Options(mode="resume"),
        watching(lambda tensor, size: told.append(tensor.name)),
    )
    assert 0 < len(told) == len(set(told)) < 11


def test_a_journal_cut_short_by_the_crash_is_read_as_far_as_it_goes(models: World) -> None:
    interrupted(models, 5)
    journal = models.out / state.STATE / "journal.jsonl"
    journal.write_text(journal.read_text()[:-7])
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


def test_a_journal_that_is_gone_starts_the_merge_over(models: World) -> None:
    interrupted(models, 5)
    (models.out / state.STATE / "journal.jsonl").unlink()
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


def test_resuming_where_nothing_was_begun_starts(models: World) -> None:
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


def test_resuming_a_finished_merge_changes_nothing(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    before = {path: path.stat().st_mtime_ns for path in models.out.iterdir()}
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert {path: path.stat().st_mtime_ns for path in models.out.iterdir()} == before


def test_a_merged_adapter_is_resumed_too(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    experts = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]
    interrupted(models, 1, experts=experts, output="adapter")
    optmerge.merge(models.recipe(experts=experts, output="adapter"), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models, experts=experts, output="adapter")


def changed_recipe(models: World) -> dict[str, Any]:
    return models.recipe(method="ties")


def changed_expert(models: World) -> dict[str, Any]:
    models.rewrite(0, lambda tensors: tensors[QUERY].add_(1))
    return models.recipe()


def changed_order(models: World) -> dict[str, Any]:
    return models.recipe(experts=[str(folder) for folder in reversed(models.experts)])


def changed_base(models: World) -> dict[str, Any]:
    models.rewrite(None, lambda tensors: tensors[QUERY].add_(1))
    return models.recipe()


def changed_config(models: World) -> dict[str, Any]:
    (models.base / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    models.rewrite(None, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    return models.recipe()


def fewer_experts(models: World) -> dict[str, Any]:
    return models.recipe(experts=[str(models.experts[0])])


CHANGES = {
    changed_recipe: "another recipe",
    changed_base: "another base",
    changed_expert: "another expert 'e0'",
    changed_config: "another base, another expert 'e0', another expert 'e1'",
    changed_order: "another recipe",
    fewer_experts: "another recipe, another expert 'e1'",
}


@pytest.mark.parametrize(("change", "words"), CHANGES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_another_merge_is_not_continued(models: World, change: Any, words: str) -> None:
    interrupted(models, 5)
    before = contents(models.out)
    with pytest.raises(OutputError, match="is another one") as caught:
        optmerge.merge(change(models), models.out, Options(mode="resume"))

    assert f"got: {words}\n" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert contents(models.out) == before


def test_an_unfinished_merge_is_not_begun_anew_unasked(models: World) -> None:
    interrupted(models, 5)
    with pytest.raises(OutputError, match="unfinished merge"):
        optmerge.merge(models.recipe(), models.out)
    optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))

    assert contents(models.out) == uninterrupted(models)


# --- overwriting


def test_overwriting_replaces_the_merge_and_its_stale_shards(models: World) -> None:
    optmerge.merge(models.recipe(**SHARDED), models.out)
    assert len(list(models.out.glob("*.safetensors"))) > 1
    optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))

    assert contents(models.out) == uninterrupted(models)


def test_overwriting_leaves_files_of_others_alone(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    (models.out / "notes.txt").write_text("mine")
    optmerge.merge(models.recipe(**SHARDED), models.out, Options(mode="overwrite"))

    assert (models.out / "notes.txt").read_text() == "mine"
    assert not (models.out / "model.safetensors").exists()


def test_the_earlier_output_stays_whole_until_the_new_one_is(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    before = contents(models.out)
    seen = []

    def look(tensor: TensorPlan, size: int) -> None:
        seen.append({name: data for name, data in contents(models.out).items() if not name.startswith(".")})

    optmerge.merge(models.recipe(method="average"), models.out, Options(mode="overwrite"), watching(look))

    assert len(seen) == 11 and all(each == before for each in seen)


def test_an_overwriting_merge_that_fails_leaves_the_earlier_one(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    before = contents(models.out)
    models.rewrite(1, lambda tensors: tensors[QUERY].fill_(float("nan")))
    with pytest.raises(InputError, match="NaN"):
        optmerge.merge(models.recipe(), models.out, Options(mode="overwrite"))

    assert contents(models.out) == before


def test_an_input_is_never_overwritten(models: World) -> None:
    optmerge.merge(models.recipe(), models.out)
    before = contents(models.out)
    with pytest.raises(OutputError, match="the output folder is an input"):
        optmerge.merge(models.recipe(base=str(models.out)), models.out, Options(mode="overwrite"))

    assert contents(models.out) == before


@pytest.mark.parametrize("at", range(6))
def test_a_crash_while_files_are_moved_into_place_is_resumed(
    models: World, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    optmerge.merge(models.recipe(**SHARDED), models.out)
    moves = 0
    move = Path.replace

    def crash(self: Path, target: Path) -> Path:
        nonlocal moves
        if state.STATE not in Path(target).parts:
            moves += 1
            if moves > at:
                raise Stop
        return move(self, target)

    changes = {"output": {"shard_size": 1000}}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Stop):
            optmerge.merge(models.recipe(**changes), models.out, Options(mode="overwrite"))
    optmerge.merge(models.recipe(**changes), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models, **changes)


def test_a_disk_that_fails_while_files_are_moved_loses_nothing(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "replace",
            lambda self, to: refuse(self, to) if Path(to).parent == models.out else replace(self, to),
        )
        with pytest.raises(OutputError, match="can't be written"):
            optmerge.merge(models.recipe(), models.out)
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


def test_a_full_disk_is_resumed(models: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from optmerge.errors import RunError

    write, calls = CheckpointWriter.write_flat, 0

    def full(self: CheckpointWriter, name: str, start: int, tensor: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise RunError("the disk is full")
        write(self, name, start, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "write_flat", full)
        with pytest.raises(RunError):
            optmerge.merge(models.recipe(), models.out)
    optmerge.merge(models.recipe(), models.out, Options(mode="resume"))

    assert contents(models.out) == uninterrupted(models)


# --- two merges at once


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_a_folder_in_use_is_refused(models: World, mode: state.Mode) -> None:
    interrupted(models, 5)
    before = contents(models.out)
    with (models.out / state.STATE / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another merge is writing"):
            optmerge.merge(models.recipe(), models.out, Options(mode=mode))

    assert contents(models.out) == before


# --- real processes, really killed


def large(root: Path) -> World:
    """Large enough to be killed half-way: some seconds of TIES."""
    generator = torch.Generator().manual_seed(0)
    base = weights()
    for layer in range(24):
        base[f"model.layers.{layer}.mlp.gate_proj.weight"] = torch.randn(512, 512, generator=generator)
    return world(root, base=base)


def start(commands: Commands, models: World, errors: Path) -> Command:
    """The command line in a process of its own, slowed down; returns once it has begun to write."""
    recipe = models.root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(models.recipe(output={"shard_size": "4MB"})))
    started = commands.start("merge", str(recipe), "--out", str(models.out), errors=errors, pause=0.03)
    journal = models.out / state.STATE / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and "written" in journal.read_text()):
        assert time.monotonic() < deadline, errors.read_text()
        time.sleep(0.01)
    return started


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=str
)
def test_a_process_that_is_stopped_can_be_resumed(
    commands: Commands, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    models, errors = large(tmp_path), tmp_path / "errors.txt"
    command = start(commands, models, errors)
    os.kill(command.pid, number)

    assert command.wait() == code
    if number != signal.SIGKILL:
        assert errors.read_text() == "interrupted; a merge continues with the same command and --resume\n"
    assert not list(models.out.glob("*.safetensors"))
    changes = {"output": {"shard_size": "4MB"}}
    result = optmerge.merge(models.recipe(**changes), models.out, Options(mode="resume"))
    assert 0 < result.resumed_tensors < len(result.plan.tensors)
    assert contents(models.out) == uninterrupted(models, **changes)


def test_two_processes_do_not_write_into_one_folder(commands: Commands, tmp_path: Path) -> None:
    models, errors = large(tmp_path), tmp_path / "errors.txt"
    command = start(commands, models, errors)
    try:
        with pytest.raises(OutputError, match="unfinished merge"):
            optmerge.merge(models.recipe(output={"shard_size": "4MB"}), models.out)
        with pytest.raises(OutputError, match="another merge is writing"):
            optmerge.merge(models.recipe(output={"shard_size": "4MB"}), models.out, Options(mode="resume"))
    finally:
        code = command.wait()

    assert code == 0, errors.read_text()
    assert json.loads((models.out / "optmerge.json").read_text())["counts"]["merge"] > 0
    assert QUERY in load(models.out)


def test_a_merge_killed_while_it_is_discarded_is_not_taken_for_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which order the entries of a folder are removed is the file system's choice."""
    remove = shutil.rmtree

    def staging_first(path: Path, **_: Any) -> None:
        remove(path / "staging")
        raise Stop

    with state.OutputFolder(tmp_path, "plan", {}, "new") as folder:
        folder.record({"a tensor": {}})
        monkeypatch.setattr(shutil, "rmtree", staging_first)
        with pytest.raises(Stop):
            folder.discard()
    monkeypatch.undo()
    with state.OutputFolder(tmp_path, "plan", {}, "resume") as folder:
        assert not folder.written
