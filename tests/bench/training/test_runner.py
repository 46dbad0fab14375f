from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optmerge.bench import records
from optmerge.bench.training import runner
from optmerge.bench.training.learning import Stage
from optmerge.bench.training.runner import StageFiles
from optmerge.errors import InputError

STAGES = {name: Stage(pictures=8, learning_rate=0.1) for name in ("base", "expert")}


class KilledError(Exception):
    pass


class Trainer:
    """Leaves what a stage leaves; killed in the middle of one, if asked."""

    def __init__(self, out: Path, killed_in: str = "") -> None:
        self.out, self.killed_in, self.trained = out, killed_in, []

    def __call__(self, name: str, stage: Stage) -> None:
        self.trained.append(name)
        files = StageFiles(self.out, name)
        (files.run / "checkpoint-1").mkdir(parents=True, exist_ok=True)
        if name == self.killed_in:
            raise KilledError
        lines = [{"step": 1, "score": {"a": 0.5}}, {"step": 2, "score": {"a": 0.75}}, {"step": 2, "loss": 1}]
        files.curve.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (self.out / name).mkdir()
        (self.out / name / "model.safetensors").write_text(name)


def train(out: Path, trainer: Trainer, stages: Any = STAGES) -> Any:
    return runner.train_stages(
        stages,
        trainer,
        out,
        kind="some/train",
        place=lambda name: out / name,
        config={"size": 3},
        seed=5,
        threads=1,
    )


def test_a_killed_training_goes_on_with_the_stage_it_was_killed_in(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(tmp_path, Trainer(tmp_path, killed_in="expert"))
    assert StageFiles(tmp_path, "base").note.is_file() and not StageFiles(tmp_path, "base").run.exists()
    assert StageFiles(tmp_path, "expert").run.is_dir() and not StageFiles(tmp_path, "expert").note.exists()
    again = Trainer(tmp_path)
    train(tmp_path, again)
    assert again.trained == ["expert"]
    assert not StageFiles(tmp_path, "expert").run.exists()


def test_the_record_tells_settings_last_looks_and_weights_of_the_stages_asked_for(tmp_path: Path) -> None:
    train(tmp_path, Trainer(tmp_path))
    record = train(tmp_path, Trainer(tmp_path), runner.chosen(STAGES, ["expert"]))
    assert set(record.config["stages"]) == set(record.cost) == set(record.weights) == {"expert"}
    assert record.config["size"] == 3 and record.config["threads"] == 1 and record.seeds == {"train": 5}
    assert record.metrics == {"expert": {"validation": {"a": 0.75}}}
    assert [each.kind for each in records.read(tmp_path / "work/training.jsonl")] == ["some/train"] * 2


def test_stages_keep_their_order_however_they_are_asked_for() -> None:
    assert list(runner.chosen(STAGES, ["expert", "base"])) == list(runner.chosen(STAGES, ())) == [*STAGES]


def test_an_unknown_stage_is_met_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'expert'"):
        runner.chosen(STAGES, ["expret"])
