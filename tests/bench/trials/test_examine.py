"""One job from weights to a record, with models that answer at random."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optmerge.bench import lines
from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.asking import TinyModel
from optmerge.bench.tasks import get
from optmerge.bench.trials import examine
from optmerge.bench.trials.jobs import jobs
from optmerge.bench.trials.merging import merge
from optmerge.bench.trials.trials import read_all
from optmerge.errors import RunError
from worlds.samples import EVERYTHING

KINDS = [("full", "base"), ("lora", "expert:ocr"), ("lora", "ties")]
if EVERYTHING:
    KINDS = list(product(("full", "lora"), ("base", "expert:ocr", "mixture", "ties")))


def job(zoo: Path, line: str, label: Any) -> Any:
    return next(j for j in jobs(zoo, [line], [0], ["ties"], n=2, quick=True)[0] if j.trial.label == label)


def examined(job: Any, tmp_path: Path, **options: Any) -> Any:
    return examine.run(job, tmp_path / "records", tmp_path / "scratch", **options)


@pytest.mark.sampled
@pytest.mark.parametrize(("line", "model"), KINDS)
def test_every_kind_of_model_answers_and_is_recorded(
    zoo: Path, tmp_path: Path, line: str, model: Any
) -> None:
    result = examined(job(zoo, line, model), tmp_path)
    assert result.error is None
    (found,) = read_all(tmp_path / "records" / line)
    assert found.trial == result.trial and found.cost.keys() == result.cost.keys()
    assert all(task.scores.shape == (2,) for task in found.tasks.values()) and len(found.tasks) == 6
    assert (found.merged is not None) == (model == "ties") == ("merge_seconds" in found.cost)
    assert list((tmp_path / "scratch").glob("*")) == []


def test_what_is_kept_is_the_merged_model_and_what_it_said(zoo: Path, tmp_path: Path) -> None:
    done = job(zoo, "full", "ties")
    result = examined(done, tmp_path, keep=True)
    assert tiny_models.load("full", done.merged(tmp_path / "scratch"))
    said = json.loads(done.answers(tmp_path / "scratch").read_text())
    task, first = get("vqa"), next(get("vqa").items("test", 1))
    assert said["vqa"][0]["question"] == first.question.text
    assert said["vqa"][0]["right"] == list(first.question.answers)
    scores = [
        task.metric(each["said"], a.question)
        for each, a in zip(said["vqa"], task.items("test", 2), strict=True)
    ]
    assert scores == result.tasks["vqa"].scores.tolist()


def test_an_adapter_added_to_the_base_says_what_it_says_beside_it(zoo: Path, tmp_path: Path) -> None:
    expert = job(zoo, "lora", "expert:ocr")
    loaded = lines.get("lora").load(expert.model, base=expert.base, device="cpu", dtype="float32")
    assert isinstance(loaded, TinyModel)
    added, processor = loaded.model, loaded.processor
    beside, _ = tiny_models.load("lora", expert.base, adapter=expert.model)
    base, _ = tiny_models.load("lora", expert.base)
    inputs = processor.inputs(["what is this?"], [next(get("ocr").items("test", 1)).image])
    with torch.inference_mode():
        one, other, without = (model(**inputs).logits for model in (added, beside, base))
    assert torch.allclose(one, other, atol=1e-4) and not torch.allclose(one, without, atol=1e-2)


def test_whatever_goes_wrong_is_recorded_and_leaves_nothing_behind(zoo: Path, tmp_path: Path) -> None:
    good = job(zoo, "full", "ties")
    broken = replace(good, experts={"a": tmp_path / "nowhere"})
    result = examined(broken, tmp_path)
    assert "nowhere" in result.error and read_all(tmp_path / "records")[0].error == result.error
    assert not broken.folder(tmp_path / "scratch").exists()
    gone = replace(good, experts=None, model=tmp_path)
    assert "no model here" in examined(gone, tmp_path).error


def test_right_answers_score_one_by_type_and_metric() -> None:
    task = get("grounding")
    questions = [each.question for each in task.items("test", 20)]
    perfect = examine.score(task, questions, [question.answers[0] for question in questions])
    assert perfect.scores.tolist() == [1.0] * 20 and set(perfect.metrics.values()) == {1.0}
    assert sum(n for _, n in perfect.types.values()) == 20
    replies = [question.answers[0] if question.type == "letter" else "no" for question in questions]
    partly = examine.score(task, questions, replies)
    assert partly.types["letter"] == (1.0, 4) and partly.types["size"] == (0.0, 4)
    assert partly.metrics["iou_at_0.5"] == np.mean(partly.scores) == 0.2


def test_a_merge_costs_time_and_memory_and_its_failure_is_in_its_own_words(zoo: Path, tmp_path: Path) -> None:
    experts = [str(zoo / "full/experts/0" / name) for name in ("vqa", "ocr", "chart")]
    recipe = {"base": str(zoo / "full/base"), "experts": experts, "method": "task_arithmetic"}
    found = merge(recipe, tmp_path / "out")
    assert 0 < found.seconds < 60 and 1e5 < found.peak_bytes < 1e9
    assert (tmp_path / "out/model.safetensors").is_file()
    with pytest.raises(RunError, match="slerp merges exactly 2 experts"):
        merge(recipe | {"method": "slerp"}, tmp_path / "other")
    with pytest.raises(RunError, match="folder"):
        merge(recipe, tmp_path / "out")
