from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from optmerge.bench.lines.tiny import asking, checkpoint
from optmerge.bench.tasks._registry import get
from optmerge.bench.training import stages
from optmerge.bench.training.curve import read
from optmerge.bench.trials import questions
from optmerge.errors import CheckpointError, InputError
from worlds import lines as tiny_lines

LINES = ("lora", "full")  # the full line takes over the other's language model
NAMES = ("base", "ocr", "vqa", "mixture")
ALL = (stages.SIGHT, stages.FINDING, stages.ALIGNING, stages.ANSWERING, *NAMES)


def short(line: str) -> dict:
    """The line's own stages, some of them, made tiny."""
    return tiny_lines.stages(line, ALL, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny) -> dict:
    found, place = {}, tmp_path_factory.mktemp("stages")
    for line in LINES:
        out = place / line
        found[line] = (out, stages.train(line, out, stages=short(line), size=tiny, threads=1))
    return found


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_trained_once_and_a_second_call_finds_it_done(line: str, trained, tiny) -> None:
    out, record = trained[line]
    again = stages.train(line, out, stages=short(line), size=tiny, threads=1)
    assert record.weights == again.weights and record.cost == again.cost
    assert set(record.weights) == set(short(line)) and len(set(record.weights.values())) == len(short(line))
    assert not [path for path in (out / "work").iterdir() if path.is_dir()]


@pytest.mark.parametrize("line", LINES)
def test_what_is_trained_can_be_asked(line: str, trained) -> None:
    out, _ = trained[line]
    for name in NAMES:
        adapter = out / name if line == "lora" and name != "base" else None
        model, processor = checkpoint.load(out / "base" if adapter else out / name, adapter=adapter)
        asked = list(questions.asked(get("ocr"), "test", 2))
        assert len(asking.answers(model, processor, asked, longest=2)) == 2


def test_full_experts_differ_from_their_base_in_the_language_models_layers_only(trained) -> None:
    out, _ = trained["full"]
    base = load_file(out / "base" / "model.safetensors")
    for name in NAMES[1:]:
        other = load_file(out / name / "model.safetensors")
        moved = {key for key in base if not torch.equal(base[key], other[key])}
        assert moved and all("language_model" in key and ".layers." in key for key in moved)


def test_adapters_name_no_path_of_the_machine_they_were_trained_on(trained) -> None:
    out, _ = trained["lora"]
    for name in NAMES[1:]:
        for file in (out / name).iterdir():
            assert str(out).encode() not in file.read_bytes()
        assert {file.name for file in (out / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }


def test_another_set_of_experts_starts_from_the_same_base(trained, tiny, tmp_path: Path) -> None:
    out, first = trained["full"]
    record = stages.train(
        "full", tmp_path, seed=1, base=out / "base", stages=short("full"), size=tiny, threads=1
    )
    assert set(record.weights) == {"ocr", "vqa"}  # the mixture is the line's
    assert all(record.weights[name] != first.weights[name] for name in record.weights)
    assert record.config["base"] == first.weights["base"]


def test_another_mixture_is_trained_where_it_is_asked_for(trained, tiny, tmp_path: Path) -> None:
    out, _ = trained["full"]
    short_mixture = {"mixture": short("full")["mixture"]}
    record = stages.train(
        "full", tmp_path, only=["mixture"], base=out / "base", stages=short_mixture, size=tiny, threads=1
    )
    assert set(record.weights) == {"mixture"}


def test_a_stage_before_the_base_cannot_start_from_it(trained, tmp_path: Path) -> None:
    out, _ = trained["full"]
    with pytest.raises(InputError, match="sight"):
        stages.train("full", tmp_path / "new", only=["sight", "ocr"], base=out / "base")
    assert not (tmp_path / "new").exists()


def test_a_base_or_a_teacher_of_another_line_is_refused(trained, tmp_path: Path) -> None:
    (full, _), (lora, _) = trained["full"], trained["lora"]
    for given in ({"base": lora / "base"}, {"teacher": full / "answering"}, {"base": tmp_path}):
        with pytest.raises(CheckpointError, match=str(next(iter(given.values())))):
            stages.train("full", tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_the_curve_ends_with_a_look(tiny, tmp_path: Path) -> None:
    stage = replace(short("full")["base"], look_every=500)
    record = stages.train("full", tmp_path, stages={"base": stage}, size=tiny, threads=1)
    looks = [line for line in read(tmp_path / "work" / "base.jsonl") if "score" in line]
    assert [line["step"] for line in looks] == [2]
    assert record.metrics["base"]["validation"] == looks[0]["score"]


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vqaa"):
        stages.train("full", tmp_path, only=["vqaa"])
