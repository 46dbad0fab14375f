from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optmerge.bench import records
from optmerge.bench.modalities import looks, models, training
from optmerge.bench.modalities.readings import Readings
from optmerge.bench.modalities.talk_batches import TalkBatch
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.training.curve import read
from optmerge.cli import run
from optmerge.errors import InputError
from optmerge.omni.compose import compose
from worlds import modalities as small

SOME = [
    pytest.param(name, marks=() if name in ("video-tower", "audio") else pytest.mark.slow)
    for name in training.STAGES
]
"""A tower and an expert in the fast suite; `bench/training` kills stages of whole models."""


class KilledError(Exception):
    pass


def train(out: Path, **options: object) -> Any:
    return training.train(
        out,
        **{"stages": small.stages(), "size": small.SIZE, "threads": 1, **options},
    )


def test_all_stages_are_trained_once_and_a_second_call_finds_them_done(trained: Any, tmp_path: Path) -> None:
    zoo, record = trained
    again = train(shutil.copytree(zoo, tmp_path / "zoo"))
    assert record.weights == again.weights and record.cost == again.cost
    assert set(record.weights) == set(training.STAGES)
    assert len(set(record.weights.values())) == 8


def test_encoders_and_the_base_stay_as_they_were_when_experts_are_trained(trained: Any) -> None:
    out, _ = trained
    start = models.load(out / "start")[0].state_dict()
    for name, value in models.load(out / "base")[0].state_dict().items():
        assert torch.equal(start[f"language_model.{name}"], value)
    for modality in MODALITIES:
        tower = load_file(out / f"work/{modality}-tower/model.safetensors")
        assert all(torch.equal(start[f"towers.{modality}.{name}"], each) for name, each in tower.items())
        moved = set(load_file(out / modality / "adapter_model.safetensors"))
        own = {name for name in moved if "towers." in name}
        assert own and all(f"towers.{modality}.projector." in name for name in own)
        assert all("lora_" in name for name in moved - own) and moved - own


def test_the_base_begins_where_reading_ended(tmp_path: Path) -> None:
    reading, base = training.READING, training.BASE
    stages = small.stages()
    stages[base] = replace(stages[base], learning_rate=0.0, matrix_rate=0.0)
    record = train(tmp_path, only=[reading, base], stages=stages)
    assert record.weights[reading] == record.weights[base]
    ended, began = (models.load(tmp_path / place)[0].state_dict() for place in ("work/reading", "base"))
    assert all(torch.equal(began[name], each) for name, each in ended.items())


def test_experts_name_no_path_of_the_machine_they_were_trained_on(trained: Any) -> None:
    out, _ = trained
    for modality in MODALITIES:
        names = {file.name for file in (out / modality).iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors"}
        for file in (out / modality).iterdir():
            assert str(out).encode() not in file.read_bytes()


@pytest.mark.parametrize("method", ["average", "naivemc", "damc"])
def test_the_experts_can_be_composed(trained: Any, tmp_path: Path, method: str) -> None:
    out, _ = trained
    experts = [{"model": str(out / each), "name": each} for each in MODALITIES]
    recipe = {"base": str(out / "base"), "experts": experts, "method": method}
    compose(recipe, tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")
    for modality in MODALITIES:
        adapter = load_file(out / modality / "adapter_model.safetensors")
        for name, value in adapter.items():
            if ".projector." in name:
                assert torch.equal(merged[name.removeprefix("base_model.model.")], value)
    start = load_file(out / "start/model.safetensors")
    encoders = [name for name in start if ".encoder." in name]
    assert encoders and all(torch.equal(merged[name], start[name]) for name in encoders)
    assert not torch.equal(
        merged["towers.audio.projector.layers.0.weight"], start["towers.audio.projector.layers.0.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_a_killed_stage_goes_on_to_the_same_weights(
    name: str, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (whole, parts):
        if name in MODALITIES:
            shutil.copytree(trained[0] / "start", out / "start")
    options = {"only": [name], "stages": small.stages(pictures=4, keep_every=2)}
    record = train(whole, **options)

    written = []
    forward: Any = Readings if name.endswith("tower") else TalkBatch
    call = forward.__call__

    def counted(self: object, rows: object) -> object:
        written.append(rows)
        if len(written) == 4:
            raise KilledError
        return call(self, rows)

    monkeypatch.setattr(forward, "__call__", counted)
    with pytest.raises(KilledError):
        train(parts, **options)
    assert [path.name for path in (parts / f"work/{name}-run").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(forward, "__call__", call)
    assert train(parts, **options).weights == record.weights
    assert not (parts / f"work/{name}-run").exists()


@pytest.mark.slow
def test_curves_end_with_a_look_at_what_is_needed(
    tmp_path: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "COUNT", 2)
    shutil.copytree(trained[0] / "start", tmp_path / "start")
    names = ["base", "video-tower", "audio"]
    record = train(tmp_path, only=names, stages=small.stages(look_every=50))
    for name in names:
        steps = [line["step"] for line in read(tmp_path / f"work/{name}.jsonl") if "score" in line]
        assert steps == [2]
    assert set(record.metrics["video-tower"]["validation"]) == {"kind", "colour", "moves", "right", "far"}
    own = set(record.metrics["audio"]["validation"])
    assert own == {"audio", "audio+video", "audio+image", "audio+video+image"}
    assert set(record.metrics["base"]["validation"]) == own | {"video", "image"}


def test_looking_changes_nothing_in_what_is_learnt(
    tmp_path: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "COUNT", 2)
    weights = []
    for every in (0, 1):
        out = tmp_path / str(every)
        shutil.copytree(trained[0] / "start", out / "start")
        weights.append(train(out, only=["image"], stages=small.stages(look_every=every)).weights)
    assert weights[0] == weights[1]


def test_an_expert_without_its_base_says_what_to_train(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--stage base"):
        train(tmp_path, only=["audio"])


def test_an_unknown_stage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["omni", "train", "--out", str(tmp_path), "--stage", "audio-towr"]) == 2
    assert "audio-tower" in capsys.readouterr().err


def test_a_stage_is_trained_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", partial(training.train, stages=small.stages(), size=small.SIZE))
    threads = torch.get_num_threads()
    out = str(tmp_path)
    assert (
        run(["omni", "train", "--out", out, "--stage", "image-tower", "--seed", "3", "--threads", "1"]) == 0
    )
    torch.set_num_threads(threads)
    [record] = records.read(tmp_path / "work/training.jsonl")
    assert record.seeds == {"train": 3}


def test_the_settings_are_recorded(trained: Any) -> None:
    out, _ = trained
    [record] = records.read(out / "work/training.jsonl")
    assert record.config["stages"]["base"]["pictures"] == 2
