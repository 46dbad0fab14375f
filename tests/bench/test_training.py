from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from optmerge.bench import models, trainer, training
from optmerge.bench.tasks import easy_vqa

TINY = models.Size(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, mlp=32)
STAGE = trainer.Stage("tiny", examples=48, learning_rate=1e-3, batch=8, keep_every=2)


class Killed(RuntimeError):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.steps:
            raise Killed


@pytest.fixture(scope="module")
def processor() -> models.Processor:
    from optmerge.bench import curriculum

    return models.build_processor(curriculum.vocabulary(), TINY)


def drawn(processor: models.Processor, count: int = STAGE.examples, **kwargs) -> trainer.Drawn:
    examples = [trainer.Example(row % 4, "what color is the shape?", "blue") for row in range(4)]
    examples += [trainer.Example(row % 4, "is there a circle?", "no") for row in range(4)]
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return trainer.Drawn(pictures, [(examples, 1.0)], processor, count, seed=3, **kwargs)


def fit(processor: models.Processor, folder: Path, callbacks: tuple[TrainerCallback, ...] = ()):
    model = models.build_model(processor, TINY, seed=0)
    data = drawn(processor, augment=True)
    return trainer.fit(model, data, STAGE, folder, seed=3, callbacks=callbacks)


def test_a_killed_run_goes_on_to_the_same_weights(processor: models.Processor, tmp_path: Path) -> None:
    straight = fit(processor, tmp_path / "straight")
    with pytest.raises(Killed):
        fit(processor, tmp_path / "killed", (KillAfter(3),))
    assert (tmp_path / "killed" / "checkpoint-2").is_dir()
    resumed = fit(processor, tmp_path / "killed")
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_only_the_answer_is_learnt(processor: models.Processor) -> None:
    ids, labels = drawn(processor).tokens("is there a circle?", "no")
    told = [int(label) for label in labels if label != trainer.IGNORED]
    assert processor.tokenizer.decode(told) == "no <|im_end|>"
    assert ids[labels != trainer.IGNORED].tolist() == told


def test_the_same_seed_draws_the_same_examples(processor: models.Processor) -> None:
    assert drawn(processor, 40).drawn == drawn(processor, 40).drawn


def test_the_line_trains_base_and_experts_and_a_second_call_finds_them_done(tmp_path: Path) -> None:
    stages = {
        name: replace(stage, examples=8, batch=4, keep_every=100) for name, stage in training.STAGES.items()
    }
    first = training.train_easy_vqa(tmp_path, stages=stages, size=TINY, threads=1)
    again = training.train_easy_vqa(tmp_path, stages=stages, size=TINY, threads=1)
    assert first.weights == again.weights and len(set(first.weights.values())) == 5
    assert set(first.cost) == set(stages) and first.cost == again.cost
    assert sorted(path.name for path in (tmp_path / "work").iterdir() if path.is_dir()) == ["see"]


def test_experts_differ_from_the_base_in_the_language_model_only(tmp_path: Path) -> None:
    stages = {name: replace(stage, examples=8, batch=4) for name, stage in training.STAGES.items()}
    training.train_easy_vqa(tmp_path, stages=stages, size=TINY, threads=1)
    base = dict(models.load(tmp_path / "base")[0].named_parameters())
    for name in easy_vqa.TYPES:
        expert = dict(models.load(tmp_path / name)[0].named_parameters())
        moved = {key for key in base if not torch.equal(base[key], expert[key])}
        assert moved and all(".language_model.layers." in key or ".norm." in key for key in moved)
