from pathlib import Path

import pytest
from rich.console import Console

from optmerge.bench import demo, evaluation, models
from optmerge.bench.tasks import easy_vqa
from optmerge.errors import CheckpointError

ZOO = demo.default_zoo()
NAMES = ("base", *easy_vqa.TYPES)


@pytest.fixture(scope="module")
def accuracies() -> dict[str, dict[str, evaluation.Accuracy]]:
    asked = easy_vqa.sample("test", 200)
    return {name: dict(demo.examine(name, ZOO / name, asked).accuracy) for name in NAMES}


def test_each_expert_is_best_at_its_own_type_by_twenty_points_over_the_base(accuracies) -> None:
    for name in easy_vqa.TYPES:
        own = accuracies[name][name]
        assert own.mean >= accuracies["base"][name].mean + 0.20
        rivals = [accuracies[other][name] for other in NAMES if other != name]
        assert own.low > max(rival.mean for rival in rivals)


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_loads_with_every_tensor_accounted_for(name: str) -> None:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(ZOO / name, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert 1_500_000 < sum(weight.numel() for weight in model.parameters()) < 2_500_000
    assert "bf" in str(model.config.dtype)


def test_experts_share_tower_projector_and_embeddings_with_the_base() -> None:
    base = dict(models.load(ZOO / "base")[0].named_parameters())
    for name in easy_vqa.TYPES:
        for key, weight in models.load(ZOO / name)[0].named_parameters():
            if ".language_model.layers." not in key and ".norm." not in key:
                assert weight.equal(base[key]), key


def test_the_demo_makes_a_table_a_picture_and_a_record_and_merging_wins(tmp_path: Path) -> None:
    console = Console(record=True, width=110)
    methods = {name: demo.METHODS[name] for name in ("optmerge",)}
    record = demo.run(tmp_path, per_type=100, methods=methods, console=console)
    scores = {name: columns["average"]["mean"] for name, columns in record.metrics.items()}
    assert scores["optmerge"] > max(scores[name] for name in NAMES)
    text = console.export_text()
    assert "n=100" in text and "n=300" in text and "optmerge" in text and "shape expert" in text
    assert (tmp_path / "answers.png").stat().st_size > 20_000
    assert models.load(tmp_path / "merged" / "optmerge")
    demo.run(tmp_path, per_type=4, methods=methods, console=console)  # a second demo replaces the first


def test_a_missing_zoo_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        demo.run(tmp_path / "out", zoo=tmp_path)
    assert "'base'" in str(caught.value) and "optmerge bench train" in str(caught.value)
    assert not (tmp_path / "out").exists()
