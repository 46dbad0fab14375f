from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from optmerge.bench import curriculum, evaluation, models, records
from optmerge.errors import InputError

TINY = models.Size(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, mlp=32)


def test_an_answer_does_not_depend_on_the_batch_around_it() -> None:
    processor = models.build_processor(curriculum.vocabulary(), TINY)
    model = models.build_model(processor, TINY, seed=0).eval()
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    texts = ["is there a circle?", "what color is the shape?", "does the image not contain a circle?"]
    asked = [(row % 3, texts[row % 2 + row // 4]) for row in range(8)]
    together = evaluation.answer(model, processor, pictures, asked)
    assert together == evaluation.answer(model, processor, pictures, asked, batch=1)
    assert together == evaluation.answer(model, processor, pictures, asked[::-1])[::-1]


def test_batches_hold_every_row_once_and_one_length_each() -> None:
    lengths = [3, 5, 3, 3, 5, 4]
    order = sorted(range(6), key=lambda row: lengths[row])
    groups = evaluation.batches(order, lengths, 2)
    assert sorted(row for group in groups for row in group) == list(range(6))
    assert all(len(group) <= 2 and len({lengths[row] for row in group}) == 1 for group in groups)


def test_the_bootstrap_interval_has_the_width_theory_gives() -> None:
    scores = [1.0] * 300 + [0.0] * 100
    result = evaluation.accuracy(scores)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert result.mean == 0.75 and result.n == 400
    assert abs(result.low - (0.75 - half)) < 0.006 and abs(result.high - (0.75 + half)) < 0.006
    assert evaluation.accuracy([1.0] * 9) == evaluation.Accuracy(1.0, 1.0, 1.0, 9)


def test_the_average_weighs_types_not_questions() -> None:
    result = evaluation.macro([[1.0] * 10, [0.0] * 1000])
    assert result.mean == 0.5 and result.n == 1010
    assert evaluation.macro([[1.0, 0.0] * 50, [0.0] * 100]).low < 0.25


def make_record() -> records.Record:
    return records.new(
        kind="easy-vqa/demo", config={"n": 1}, seeds={"demo": 0}, metrics={}, cost={}, weights={}
    )


def test_a_record_comes_back_as_it_was_written_and_is_never_overwritten(tmp_path: Path) -> None:
    record = make_record()
    path = records.write(record, tmp_path)
    assert records.read(path) == record
    assert record.versions["torch"] == torch.__version__
    with pytest.raises(FileExistsError):
        records.write(record, tmp_path)


def test_two_runs_within_a_second_keep_a_record_each(tmp_path: Path) -> None:
    runs = [records.new(kind="t", config={}, seeds={}, metrics={}, cost={}, weights={}) for _ in range(20)]
    assert len({records.write(run, tmp_path) for run in runs}) == 20


def test_a_record_with_strange_or_missing_keys_is_refused(tmp_path: Path) -> None:
    path = records.write(make_record(), tmp_path)
    for text in ("{}", "[1]", "not json", path.read_text().replace('"kind"', '"sort"')):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="record"):
            records.read(tmp_path / "bad.json")
    newer = records.write(replace(make_record(), schema=99), tmp_path)
    with pytest.raises(InputError, match="another schema"):
        records.read(newer)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("results/easy_vqa/*.json")), ids=lambda p: p.name
)
def test_every_committed_record_is_readable(path: Path) -> None:
    assert records.read(path).metrics or records.read(path).cost
