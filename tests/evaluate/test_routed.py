"""A routed output in use: merge and part compute what the expert does, prompts of one part together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import optmerge
from optmerge.cli import run
from optmerge.evaluate import chat
from optmerge.evaluate.evaluation import Reply, evaluations
from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.routed import RoutedModel
from worlds.models import TINY, forward, inputs
from worlds.samples import sample

IN_LAYERS = re.compile(r"^(?!.*vis).*(layers|h)\.\d+\.")
FAMILIES = ("llama", "qwen2_vl", "phi3", "gpt2", "qwen3", "internvl")


def expert_of(name: str, folder: Path, seed: int) -> Path:
    """The tiny model of a family with other matrices in its language model's layers."""
    torch.manual_seed(0)
    model = TINY[name]()
    torch.manual_seed(seed)
    for parameter, values in model.named_parameters():
        if values.ndim == 2 and IN_LAYERS.search(parameter) and seed:
            values.data += 0.1 * torch.randn_like(values)
    model.save_pretrained(folder)
    return folder


@pytest.mark.sampled
@pytest.mark.parametrize("name", sample(FAMILIES, 2))
def test_merge_and_part_compute_what_the_expert_does(name: str, tmp_path: Path) -> None:
    base, *experts = (expert_of(name, tmp_path / f"e{seed}", seed) for seed in range(3))
    recipe = {
        "base": str(base),
        "experts": [str(each) for each in experts],
        "method": "average",
        "output": {"format": "routed", "budget": 9},
    }
    folder = optmerge.merge(recipe, tmp_path / "routed").path
    kind = AutoModelForImageTextToText if name in ("qwen2_vl", "internvl") else AutoModelForCausalLM
    routed = RoutedModel.load(folder, kind.from_pretrained(folder).eval())
    merged = kind.from_pretrained(folder).eval()
    with torch.inference_mode():
        prompt = {key: each for key, each in inputs(merged).items() if isinstance(each, torch.Tensor)}
        assert len(routed.choices([prompt])) == 1
        with routed.using(""):
            assert torch.equal(routed.model(**prompt).logits, forward(merged))
        for each in experts:
            with routed.using(each.name):
                found = routed.model(**prompt).logits
            own = kind.from_pretrained(each).eval()
            torch.testing.assert_close(found, forward(own), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def routed(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A routed merge of two experts of the full line."""
    experts = zoo / "full" / "experts" / "0"
    recipe = {
        "base": str(zoo / "full" / "base"),
        "experts": [str(experts / "vqa"), str(experts / "ocr")],
        "method": "average",
        "output": {"format": "routed", "threshold": 0.0},
    }
    return optmerge.merge(recipe, tmp_path_factory.mktemp("routed") / "merged").path


def test_an_answer_is_that_of_the_part_that_was_chosen(routed: Path, picture: Path) -> None:
    model = chat.load(routed)
    assert model.routed is not None
    image = Image.open(picture).convert("RGB")
    prompts = [model.inputs(question, [image]) for question in ("what color is it?", "read the word.")]
    alone = {}
    for part in ("vqa", "ocr"):
        with model.routed.using(part):
            alone[part] = chat.Chat(model.routed.model, model.processor).answers(prompts, longest=4)
    said = model.answers(prompts, longest=4, choices=["ocr", "vqa"])
    assert said == [alone["ocr"][0], alone["vqa"][1]]
    chosen = model.choices(prompts)
    assert chosen is not None and set(chosen) <= {"vqa", "ocr"}
    assert model.answers(prompts, longest=4) == [alone[part][row] for row, part in enumerate(chosen)]


def test_eval_says_which_part_answered(
    routed: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"question": "what color is it?", "image": str(picture), "answer": "red", "group": "colours"}
    file, said = tmp_path / "q.jsonl", tmp_path / "said.jsonl"
    file.write_text(json.dumps(line) + "\n")
    assert run(["eval", str(routed), str(file), "--json", "--longest", "2", "--out", str(said)]) == 0
    [found] = json.loads(capsys.readouterr().out)
    part = json.loads(said.read_text())["part"]
    assert part in ("vqa", "ocr")
    assert found["parts"] == {"colours": {part: 1.0}}


def test_a_routed_output_is_verified(routed: Path) -> None:
    checks = optmerge.verify(routed).checks
    assert not [check for check in checks if check.ok is False]
    assert {"router", "part vqa", "part ocr", "load vqa", "load ocr"} <= {check.name for check in checks}


def test_shares_of_parts_are_of_each_group() -> None:
    def reply(group: str, part: str) -> Reply:
        question = FileQuestion("q", ("a",), group, {}, "exact", group, "", None)
        return Reply(question, "a", 1.0, part)

    [found] = evaluations({"m": [reply("x", "a"), reply("x", ""), reply("y", "b")]})
    assert found.parts == {"x": {"a": 0.5, "": 0.5}, "y": {"b": 1.0}}
