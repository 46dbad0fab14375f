from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from optmerge.bench.lines.tiny import asking, tiny_models
from optmerge.bench.lines.tiny.family import TinySize
from optmerge.bench.records import Record
from optmerge.bench.tasks import get
from optmerge.bench.training import curve
from optmerge.bench.training import train as training
from optmerge.bench.training.conversations import trained_tasks
from optmerge.bench.training.curve import read
from optmerge.bench.training.packing import ConversationBatch
from optmerge.bench.training.stages import LineStage, stages_of
from optmerge.bench.training.train import train
from optmerge.errors import CheckpointError, InputError
from worlds import lines as tiny_lines

LINES = ("lora", "full")  # the full line takes over the other's language model
NAMES = ("base", "ocr", "vqa", "mixture")
SAMPLE = ("sight", "finding", "aligning", "answering", "base-1", "mixture-1", *NAMES)
Trained = dict[str, tuple[Path, Record]]


class KilledError(Exception):
    pass


def short(line: str, names: Collection[str] = SAMPLE, **changes: object) -> dict[str, LineStage]:
    """The line's own stages, some of them, made tiny."""
    return tiny_lines.stages(line, names, **{"learning_rate": 1e-2, **changes})


def one(line: str, name: str, **changes: object) -> dict[str, LineStage]:
    """A single short stage of a line."""
    return short(line, (name,), **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: TinySize) -> Trained:
    found, place = {}, tmp_path_factory.mktemp("stages")
    for line in LINES:
        out = place / line
        found[line] = (out, train(line, out, stages=short(line), size=tiny, threads=1))
    return found


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_trained_once_and_a_second_call_finds_it_done(
    line: str, trained: Trained, tiny: TinySize
) -> None:
    out, record = trained[line]
    again = train(line, out, stages=short(line), size=tiny, threads=1)
    assert record.weights == again.weights and record.cost == again.cost
    assert set(record.weights) == set(short(line)) and len(set(record.weights.values())) == len(short(line))
    assert not [path for path in (out / "work").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_every_stage_of_both_lines_runs_from_nothing_to_the_mixture(tmp_path: Path, tiny: TinySize) -> None:
    for line in LINES:
        names = stages_of(line)
        record = train(line, tmp_path / line, stages=short(line, names), size=tiny, threads=1)
        assert list(record.config["stages"]) == list(record.weights) == list(names)
        assert len(set(record.weights.values())) == len(names)
        assert set(trained_tasks()) < set(names)


def test_the_record_says_what_each_stage_learnt_from(trained: Trained) -> None:
    _, record = trained["full"]
    assert record.config["regime"] == "gentle"
    aligning, base = (record.config["stages"][name] for name in ("aligning", "base"))
    assert aligning["seed"] == 7 and list(aligning["teacher"]) == ["lora", "answering"]
    assert base["batch"] == 2 and base["curriculum"]["shares"]["geometry"] == 0.5


@pytest.mark.parametrize(("line", "name"), [("full", "base"), ("lora", "mixture")])
def test_a_pass_begins_where_the_pass_before_ended(
    line: str, name: str, trained: Trained, tiny: TinySize, tmp_path: Path
) -> None:
    out, first = trained[line]
    (tmp_path / f"{name}-1").symlink_to(out / f"{name}-1")
    (tmp_path / "base").symlink_to(out / "base") if name == "mixture" else None
    stages = short(line, (f"{name}-1",)) | one(line, name, learning_rate=0.0, matrix_rate=0.0)
    only = {f"{name}-1": stages[f"{name}-1"], name: stages[name]}
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"{name}-1.json").write_text("{}")
    record = train(line, tmp_path, stages=only, size=tiny, threads=1)
    assert record.weights[name] == record.weights[f"{name}-1"] == first.weights[f"{name}-1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "mixture"])
def test_a_killed_pass_goes_on_to_the_same_weights(
    name: str, trained: Trained, tiny: TinySize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = trained["lora"]
    stages = short("lora", (f"{name}-1", name), pictures=8, keep_every=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        (folder / "work").mkdir(parents=True)
        (folder / "work" / f"{name}-1.json").write_text("{}")
        (folder / f"{name}-1").symlink_to(out / f"{name}-1")
    base = {"base": out / "base"} if name == "mixture" else {}
    options = {"only": [name], "stages": stages, "size": tiny, "threads": 1, **base}
    record = train("lora", whole, **options)

    batches: list[object] = []
    call = ConversationBatch.__call__

    def counted(self: ConversationBatch, rows: object) -> object:
        batches.append(rows)
        if len(batches) == 4:
            raise KilledError
        return call(self, rows)

    monkeypatch.setattr(ConversationBatch, "__call__", counted)
    with pytest.raises(KilledError):
        train("lora", parts, **options)
    assert [path.name for path in (parts / f"work/{name}-run").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(ConversationBatch, "__call__", call)
    assert train("lora", parts, **options).weights == record.weights


def test_who_asks_for_a_stage_gets_its_earlier_passes(trained: Trained, tiny: TinySize) -> None:
    out, first = trained["lora"]
    for name in ("base", "mixture"):
        record = train("lora", out, only=[name], stages=short("lora"), size=tiny, threads=1)
        assert record.weights == {key: first.weights[key] for key in (f"{name}-1", name)}


@pytest.mark.parametrize("line", LINES)
def test_what_is_trained_can_be_asked(line: str, trained: Trained) -> None:
    out, _ = trained[line]
    for name in NAMES:
        adapter = out / name if line == "lora" and name != "base" else None
        model, processor = tiny_models.load(line, out / "base" if adapter else out / name, adapter=adapter)
        asked = list(get("ocr").items("test", 2))
        assert len(asking.answers(model, processor, asked, tokens=2)) == 2


def test_full_experts_differ_from_their_base_in_the_language_models_layers_only(trained: Trained) -> None:
    out, _ = trained["full"]
    base = load_file(out / "base" / "model.safetensors")
    for name in NAMES[1:]:
        other = load_file(out / name / "model.safetensors")
        moved = {key for key in base if not torch.equal(base[key], other[key])}
        assert moved and all("language_model" in key and ".layers." in key for key in moved)


def test_adapters_name_no_path_of_the_machine_they_were_trained_on(trained: Trained) -> None:
    out, _ = trained["lora"]
    for name in NAMES[1:]:
        for file in (out / name).iterdir():
            assert str(out).encode() not in file.read_bytes()
        assert {file.name for file in (out / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }


def test_another_set_of_experts_starts_from_the_same_base(
    trained: Trained, tiny: TinySize, tmp_path: Path
) -> None:
    out, first = trained["full"]
    record = train("full", tmp_path, seed=1, base=out / "base", stages=short("full"), size=tiny, threads=1)
    assert set(record.weights) == {"ocr", "vqa"}  # the mixture is the line's
    assert all(record.weights[name] != first.weights[name] for name in record.weights)
    assert record.config["base"] == first.weights["base"]


def test_another_mixture_is_trained_where_it_is_asked_for(
    trained: Trained, tiny: TinySize, tmp_path: Path
) -> None:
    out, _ = trained["full"]
    record = train(
        "full", tmp_path, only=["mixture"], base=out / "base", stages=short("full"), size=tiny, threads=1
    )
    assert set(record.weights) == {"mixture"}


def test_a_far_set_is_trained_without_the_pull_and_recorded_as_far(
    trained: Trained, tiny: TinySize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = trained["full"]
    monkeypatch.setattr(
        training,
        "stages_of",
        lambda line, regime: {
            name: replace(stage, settings=tiny_lines.shortened(stage.settings))
            for name, stage in stages_of(line, regime).items()
            if name in ("ocr", "vqa")
        },
    )
    record = train("full", tmp_path, regime="far", base=out / "base", size=tiny, threads=1)
    assert record.config["regime"] == "far"
    assert [stage["pull"] for stage in record.config["stages"].values()] == [0.0, 0.0]


def test_a_stage_before_the_base_cannot_start_from_it(trained: Trained, tmp_path: Path) -> None:
    out, _ = trained["full"]
    with pytest.raises(InputError, match="sight"):
        train("full", tmp_path / "new", only=["sight", "ocr"], base=out / "base")
    assert not (tmp_path / "new").exists()


def test_a_base_or_a_teacher_of_another_line_is_refused(trained: Trained, tmp_path: Path) -> None:
    (full, _), (lora, _) = trained["full"], trained["lora"]
    for given in ({"base": lora / "base"}, {"teacher": full / "answering"}, {"base": tmp_path}):
        with pytest.raises(CheckpointError, match=str(next(iter(given.values())))):
            train("full", tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_the_full_line_needs_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--teacher") as caught:
        train("full", tmp_path / "full")
    assert str(tmp_path / "lora" / "answering") in str(caught.value)
    assert not (tmp_path / "full").exists()


def test_the_curve_ends_with_a_look(tiny: TinySize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "Curve", partial(curve.Curve, count=2))
    stages = one("full", "base", look_every=500)
    record = train("full", tmp_path, stages=stages, size=tiny, threads=1)
    looks = [line for line in read(tmp_path / "work" / "base.jsonl") if "score" in line]
    assert [line["step"] for line in looks] == [2]
    assert record.metrics["base"]["validation"] == looks[0]["score"]


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vqaa"):
        train("full", tmp_path, only=["vqaa"])
