"""The stage tables are what was done: they agree with the records of the trainings that made the zoo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.tasks import drawn, get
from optmerge.bench.training.conversations import trained_tasks
from optmerge.bench.training.stages import stages_of
from optmerge.bench.training.train import SIZE
from optmerge.errors import InputError

ROOT = Path(__file__).parents[3]
RECORDED = {
    "full": [
        "sight",
        "answering",
        "base-1",
        "base",
        "geometry",
        "vqa",
        "mixture",
        "grounding",
        "chart",
        "ocr",
    ],
    "lora": [
        *("sight", "reading", "finding", "relating", "answering"),
        *("base-1", "base-2", "base-3", "base-4", "base-5", "base-6", "base"),
        *("geometry", "vqa", "ocr", "mixture-1", "chart", "grounding", "mixture"),
    ],
}
"""Line → the stages of the shipped models, in the order of their records; aligning left none."""
OTHER_SETS = {"full": 2, "lora": 2}


def records(line: str) -> list[dict[str, Any]]:
    """The records of a line's trainings, in the order in which the trainings ended."""

    def found() -> Iterator[dict[str, Any]]:
        for path in (ROOT / "results" / "bench").rglob("*.json*"):
            text = path.read_text(encoding="utf-8")
            for record in map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text]):
                if record["kind"] == f"{line}/train":
                    yield record

    return sorted(found(), key=lambda record: record["created"])


@pytest.mark.parametrize("line", RECORDED)
def test_the_stages_are_those_that_made_the_shipped_models(line: str) -> None:
    stages, shipped = stages_of(line), records(line)[: -OTHER_SETS[line]]
    assert set(stages) == {*RECORDED[line]} | ({"aligning"} if line == "full" else set())
    for name, record in zip(RECORDED[line], shipped, strict=True):
        (settings,) = record["config"]["stages"].values()
        stage, ours = stages[name], stages[name].recorded()
        assert {key: ours[key] for key in settings} == settings, name
        assert record["seeds"] == {"train": stage.seed}, name
        if name in ("reading", "answering"):
            assert stage.curriculum.questions == record["config"]["questions"], name
        if stage.role == "base" and "base_shares" in record["config"]:
            assert stage.curriculum.shares == record["config"]["base_shares"], name


@pytest.mark.parametrize("line", RECORDED)
def test_the_other_sets_of_experts_are_made_by_the_same_stages(line: str) -> None:
    stages = stages_of(line)
    for record in records(line)[-OTHER_SETS[line] :]:
        assert set(record["config"]["stages"]) == set(trained_tasks())
        for name, settings in record["config"]["stages"].items():
            ours = stages[name].recorded()
            assert {key: ours[key] for key in settings} == settings


def test_what_the_records_leave_out_is_what_the_zoos_page_told() -> None:
    full, lora = stages_of("full"), stages_of("lora")
    shares = {"sheets": 2.0, "vqa": 0.3, "geometry": 0.7, "chart": 0.8, "ocr": 0.12, "grounding": 0.9}
    assert full["base-1"].curriculum.shares == shares
    assert full["aligning"].seed == 7 and full["aligning"].settings.pictures == 64_000
    for name in ("base-4", "base-5"):
        curriculum = lora[name].curriculum
        assert curriculum.types["chart"] == drawn()["chart"].known and curriculum.captions == 2
    for name in ("base-2", "base-3", "base-6", "base"):
        curriculum = lora[name].curriculum
        assert curriculum.types["chart"] == get("chart").types and curriculum.captions == 1


@pytest.mark.parametrize("line", RECORDED)
def test_a_new_model_has_the_configuration_of_the_shipped_ones(line: str) -> None:
    _, processor = tiny_models.load(line, ROOT / "zoo" / line / "base")  # learning a tokenizer takes seconds
    model = tiny_models.build(processor, SIZE, seed=0)
    new = json.loads(json.dumps(model.config.to_dict()))
    shipped = json.loads((ROOT / "zoo" / line / "base" / "config.json").read_text(encoding="utf-8"))
    differing = {
        key
        for key, value in flat(shipped)
        if dict(flat(new)).get(key) != value and key.split(".")[-1] != "dtype"
    }
    assert differing == {"architectures", "use_cache"}  # set when a model is saved or trained


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration under the path of its keys."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("line", RECORDED)
def test_nothing_holds_far_experts_back_and_their_rates_differ(line: str) -> None:
    gentle, far = stages_of(line), stages_of(line, "far")
    assert list(gentle) == list(far)
    experts = {name: stage for name, stage in far.items() if stage.role == "expert"}
    for name, stage in far.items():
        if name not in experts:
            assert stage == gentle[name]
            continue
        assert stage.settings.pull == stage.settings.weight_decay == 0.0 < gentle[name].settings.pull
        assert stage.settings.learning_rate >= gentle[name].settings.learning_rate
        assert stage.curriculum == gentle[name].curriculum
    # A walk's length grows with the rate and the root of the number of steps.
    walks = [s.settings.learning_rate * s.settings.steps**0.5 for s in experts.values()]
    assert 4 <= max(walks) / min(walks) <= 12


def test_a_line_without_stages_and_an_unknown_regime_are_named() -> None:
    with pytest.raises(InputError, match="did you mean 'lora'"):
        stages_of("lorra")
    with pytest.raises(InputError, match="did you mean 'far'"):
        stages_of("full", "fer")
