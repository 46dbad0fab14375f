from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.training import conversations
from optmerge.bench.training.aligning import Aligning, BothViews, take_over
from optmerge.bench.training.learning import Stage, fit
from optmerge.bench.training.packing import Conversations

STAGE = Stage(
    pictures=64, learning_rate=1e-2, matrix_rate=0.02, batch=8, part="sight", keep_every=0, look_every=0
)


@pytest.fixture
def pair(processors: Mapping[str, Processor], tiny: TinySize) -> tuple:
    return tuple(tiny_models.build(processors[line], tiny, seed=0) for line in ("full", "lora"))


@pytest.fixture
def views(processors: Mapping[str, Processor]) -> BothViews:
    return BothViews(processors["full"], processors["lora"])


def rows(count: int) -> Conversations:
    return Conversations(conversations.answering(1.0), count, seed=0)


def test_a_model_that_says_the_same_as_its_teacher_has_nothing_to_learn(
    processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    model = tiny_models.build(processors["lora"], tiny, seed=0).eval()
    both = BothViews(processors["lora"], processors["lora"])([rows(2)[0], rows(2)[1]])
    assert Aligning(model, model)(**both)["loss"] == 0


def test_the_tower_comes_nearer_to_its_teachers_tokens_and_nothing_else_moves(
    pair: Any, views: BothViews, tmp_path: Path
) -> None:
    model, teacher = pair
    take_over(model, teacher)
    language = {name: weight.clone() for name, weight in teacher.get_decoder().state_dict().items()}
    held_out = views([Conversations(conversations.answering(1.0), 8, seed=1)[row] for row in range(8)])
    learner = Aligning(model, teacher)
    before = learner.eval()(**held_out)["loss"].item()
    fit(learner, rows(64), views, STAGE, tmp_path, seed=0)
    assert learner(**held_out)["loss"].item() < before / 2
    for moved in (model.get_decoder(), teacher.get_decoder()):
        assert all(torch.equal(weight, language[name]) for name, weight in moved.state_dict().items())


def test_a_taken_over_language_model_answers_as_its_teacher_but_for_the_norms_epsilon(
    pair: Any, processors: Mapping[str, Processor]
) -> None:
    model, teacher = (each.eval() for each in pair)
    take_over(model, teacher)
    norms = [each for each in model.get_decoder().modules() if hasattr(each, "variance_epsilon")]
    assert norms and {each.variance_epsilon for each in norms} == {1e-6}
    for norm in norms:
        norm.variance_epsilon = teacher.config.text_config.rms_norm_eps
    ids = torch.tensor([processors["full"].ids("what color is the star?")])
    assert torch.equal(ids, torch.tensor([processors["lora"].ids("what color is the star?")]))
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, teacher(input_ids=ids).logits, atol=1e-5)
