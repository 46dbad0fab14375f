from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.tasks import get
from optmerge.bench.training import conversations, curve, learning
from optmerge.bench.training.packing import ConversationBatch, Conversations

STAGE = learning.Stage(pictures=8, learning_rate=1e-2, batch=2, keep_every=2, look_every=0)
RUNS = [("full", "all"), ("full", "layers"), ("lora", "all"), ("lora", "adapter")]
MUON = {"all": 0.02}
"""Part → learning rate of Muon, as the lines' own stages have it."""


class Killed(RuntimeError):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.steps:
            raise Killed


def trained(
    processor: Any, size: int, part: str, folder: Path, callbacks: tuple[Any, ...] = (), **kwargs: Any
) -> dict[str, torch.Tensor]:
    """Every weight after a run."""
    torch.manual_seed(0)
    stage = replace(STAGE, part=part, matrix_rate=MUON.get(part, 0.0), **kwargs)
    model = learning.prepared(tiny_models.build(processor, size, seed=0), stage)
    rows = Conversations(
        conversations.everything(
            {conversations.SHEETS: 1.0, "vqa": 1.0}, without={"vqa": ("relation", "comparison")}
        ),
        stage.steps * stage.batch,
        seed=3,
    )
    model = learning.fit(
        model, rows, ConversationBatch(processor), stage, folder, seed=3, callbacks=callbacks
    )
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("line", "part", "pull"),
    [
        ("full", "all", 0.0),
        ("lora", "adapter", 0.0),
        pytest.param("full", "layers", 30.0, marks=pytest.mark.slow),
        pytest.param("full", "layers", 0.0, marks=pytest.mark.slow),
        pytest.param("lora", "all", 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    line: str, part: str, pull: float, processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    straight = trained(processors[line], tiny, part, tmp_path / "straight", pull=pull)
    with pytest.raises(Killed):
        trained(processors[line], tiny, part, tmp_path / "killed", [KillAfter(3)], pull=pull)
    assert (tmp_path / "killed" / "checkpoint-2").is_dir()
    resumed = trained(processors[line], tiny, part, tmp_path / "killed", pull=pull)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_pull_keeps_what_is_trained_near_its_beginning(
    processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = dict(tiny_models.build(processors["full"], tiny, seed=0).named_parameters())
    ways = []
    for pull in (0.0, 10.0, 40.0):
        end = trained(processors["full"], tiny, "layers", tmp_path / f"{pull}", pull=pull)
        ways.append(sum((end[name] - start[name]).detach().square().sum().item() for name in end) ** 0.5)
    assert ways[0] > ways[1] > ways[2] > 0


@pytest.mark.parametrize(("line", "part"), RUNS)
def test_a_stage_changes_its_part_and_nothing_else(
    line: str, part: str, processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = learning.prepared(tiny_models.build(processors[line], tiny, seed=0), replace(STAGE, part=part))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    after = trained(processors[line], tiny, part, tmp_path, pictures=2)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    inside = {"all": "model.", "layers": ".language_model.layers.", "adapter": ".lora_"}[part]
    assert moved and moved == {name for name in before if inside in name}


def test_bfloat16_computing_leaves_the_weights_in_float32(
    processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    assert {weight.dtype for weight in trained(processors["full"], tiny, "all", tmp_path).values()} == {
        torch.float32
    }


def test_an_adapter_lies_on_every_matrix_of_the_language_model(
    processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    model = learning.prepared(
        tiny_models.build(processors["lora"], tiny, seed=0), replace(STAGE, part="adapter")
    )
    names = {
        name.split(".lora_A")[0].rsplit(".", 1)[1] for name, _ in model.named_parameters() if "lora_A" in name
    }
    assert names == {f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")}
    free = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert free and all(".language_model.layers." in name and ".lora_" in name for name in free)


class Steps:
    """A Trainer's state."""

    def __init__(self, step: int) -> None:
        self.global_step, self.max_steps = step, 100


def test_a_resumed_curve_forgets_what_came_after_the_checkpoint(
    processors: Mapping[str, Processor], tmp_path: Path
) -> None:
    path = tmp_path / "work" / "curve.jsonl"
    written = curve.Curve(path, processors["full"], {}, every=0)
    written.on_train_begin(None, Steps(0), None)
    for step in (50, 100):
        written.on_log(None, Steps(step), None, {"loss": 1.0, "learning_rate": 0.1})
    curve.Curve(path, processors["full"], {}, every=0).on_train_begin(None, Steps(50), None)
    assert [line["step"] for line in curve.read(path)] == [50]


def test_a_look_scores_every_task_and_type(
    processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    tasks: Mapping = {name: get(name) for name in ("vqa", "ocr")}
    looking = curve.Curve(tmp_path / "curve.jsonl", processors["full"], tasks, every=1, count=12)
    model = tiny_models.build(processors["full"], tiny, seed=0).eval()
    for asked in looking.asked.values():
        for one in asked:
            assert one.question.type in tasks["vqa"].types + tasks["ocr"].types
    found = looking.look(model)
    assert set(found["score"]) == set(found["types"]) == {"vqa", "ocr"}
    assert set(found["types"]["ocr"]) == {one.question.type for one in looking.asked["ocr"]}
