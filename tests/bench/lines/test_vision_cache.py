"""Answers are those of the model's own `generate`, and a picture is seen once a vision tower."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.asking import TinyModel, VisionCache, answers, answers_to_seen
from optmerge.bench.tasks import drawn, get
from optmerge.evaluate.answering import ANSWER_TOKENS
from worlds import random_zoo

LINES = ("full", "lora")


@pytest.fixture(scope="module", params=LINES)
def made(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    processor = random_zoo.make_processor(request.param)
    model = tiny_models.build(processor, random_zoo.TINY, seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():  # as it is, it says the same to everything
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    return model, processor


def sees(name: str) -> bool:
    return "language_model" not in name and "lm_head" not in name


def test_a_table_and_a_learning_curve_get_the_same_answers_of_a_model(made: Any) -> None:
    """One sees pictures through the cache, the other by itself; both cut answers off at the same length."""
    tasks = [get(name) for name in ("vqa", "ocr", "composition")]
    told = TinyModel(*made).answers(tasks, "test", 6)
    table = [text for each in told for text in each.texts]
    items = [item for task in tasks for item in task.items("test", 6)]
    assert [question for each in told for question in each.questions] == [item.question for item in items]
    assert table == answers(*made, items)
    assert len(set(table)) > 3
    lengths = [len(made[1].ids(text)) for text in table]
    assert max(lengths) > 14  # some answer would go on for ever


def test_an_answer_hangs_on_its_own_picture(made: Any) -> None:
    model, processor = made
    seen = VisionCache().seen(model, processor, get("chart"), "test", 8)
    questions = [seen.questions[0]] * 8
    together = answers_to_seen(model, processor, questions, seen.features)
    assert len(set(together)) > 1
    assert [
        answers_to_seen(model, processor, questions[:1], seen.features[row : row + 1])[0] for row in range(8)
    ] == together


def test_pictures_are_seen_once_by_all_models_with_the_same_vision_tower(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = made
    merged = deepcopy(model)
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            if not sees(name):
                weight.add_(0.1)
    calls = []
    for each in (model, merged):
        see = each.get_image_features
        monkeypatch.setattr(each, "get_image_features", lambda see=see, **k: (calls.append(1), see(**k))[1])
    cache = VisionCache()
    first, second = (cache.seen(each, processor, get("vqa"), "test", 6) for each in (model, merged))
    assert first is second and len(calls) == 1


def test_another_vision_tower_sees_for_itself(made: Any) -> None:
    model, processor = made
    other = deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if sees(name):
                weight.add_(0.1)
    cache = VisionCache()
    first, second = (cache.seen(each, processor, get("vqa"), "test", 4) for each in (model, other))
    assert first is not second and not torch.equal(first.features, second.features)
    assert cache.seen(model, processor, get("vqa"), "validation", 4).questions != first.questions


def test_the_longest_right_answer_is_not_cut_off() -> None:
    processor = random_zoo.make_processor("full")
    longest = max(
        len(processor.ids(each.question.answers[0]))
        for task in drawn().values()
        for each in task.items("test", 60)
    )
    assert longest < ANSWER_TOKENS
