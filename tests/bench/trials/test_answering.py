"""Answers are those of the model's own `generate`, and a picture is looked at once."""

from copy import deepcopy

import pytest
import torch

from optmerge.bench.lines.tiny import checkpoint
from optmerge.bench.lines.tiny.asking import answers
from optmerge.bench.tasks._registry import get, registered
from optmerge.bench.trials.answering import LONGEST, Eyes, answer
from optmerge.bench.trials.questions import asked
from worlds import random_zoo

LINES = ("full", "lora")


@pytest.fixture(scope="module", params=LINES)
def made(request):
    processor = random_zoo.make_processor(request.param)
    model = checkpoint.build(processor, random_zoo.TINY, seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():  # as it is, it says the same to everything
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    return model, processor


def looks(name: str) -> bool:
    return "language_model" not in name and "lm_head" not in name


def test_answers_are_those_of_generate_on_the_pictures(made):
    model, processor = made
    everything = [each for name in ("vqa", "ocr", "composition") for each in asked(get(name), "test", 12)]
    album = [Eyes().album(model, processor, get(name), "test", 12) for name in ("vqa", "ocr", "composition")]
    found = answer(
        model,
        processor,
        [each.question.text for each in everything],
        torch.cat([each.features for each in album]),
    )
    assert found == answers(model, processor, everything, longest=LONGEST)
    assert len(set(found)) > 3


def test_an_answer_hangs_on_its_own_picture(made):
    model, processor = made
    album = Eyes().album(model, processor, get("chart"), "test", 24)
    texts = [album.questions[0].text] * 24
    together = answer(model, processor, texts, album.features)
    assert len(set(together)) > 1
    assert [
        answer(model, processor, texts[:1], album.features[row : row + 1])[0] for row in range(24)
    ] == together


def test_pictures_are_looked_at_once_by_all_models_with_the_same_eyes(made, monkeypatch):
    model, processor = made
    merged = deepcopy(model)
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            if not looks(name):
                weight.add_(0.1)
    seen = []
    for each in (model, merged):
        see = each.get_image_features
        monkeypatch.setattr(each, "get_image_features", lambda see=see, **k: (seen.append(1), see(**k))[1])
    eyes = Eyes()
    first, second = (eyes.album(each, processor, get("vqa"), "test", 6) for each in (model, merged))
    assert first is second and len(seen) == 1


def test_other_eyes_see_for_themselves(made):
    model, processor = made
    other = deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if looks(name):
                weight.add_(0.1)
    eyes = Eyes()
    first, second = (eyes.album(each, processor, get("vqa"), "test", 4) for each in (model, other))
    assert first is not second and not torch.equal(first.features, second.features)
    assert eyes.album(model, processor, get("vqa"), "validation", 4).questions != first.questions


def test_the_longest_right_answer_is_not_cut_off():
    processor = random_zoo.make_processor("full")
    longest = max(
        len(processor.ids(each.question.answers[0]))
        for task in registered().values()
        for each in asked(task, "test", 100)
    )
    assert longest < LONGEST
