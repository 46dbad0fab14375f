from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.tasks import drawn
from optmerge.errors import CheckpointError, InputError

LINES = ("full", "lora")
ASKED = "how many shapes are there?"


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, processors: Mapping[str, Processor], tiny: TinySize
) -> dict[str, Path]:
    found = {}
    for line in LINES:
        found[line] = tmp_path_factory.mktemp("lines") / line
        model = tiny_models.build(processors[line], tiny, seed=0)
        tiny_models.save(model, processors[line], found[line], dtype=torch.float32)
    return found


def picture(index: int = 0) -> Any:
    return drawn()["grounding"].scene("test", index).image


@pytest.mark.parametrize("line", LINES)
def test_a_saved_model_comes_back_with_the_same_logits(
    line: str, folders: Any, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    before, (model, processor) = processors[line], tiny_models.load(line, folders[line])
    original = tiny_models.build(before, tiny, seed=0).eval()
    ours, loaded = before.inputs([ASKED], [picture()]), processor.inputs([ASKED], [picture()])
    assert ours.keys() == loaded.keys() and all(torch.equal(ours[key], loaded[key]) for key in ours)
    with torch.no_grad():
        assert torch.equal(original(**ours).logits, model(**loaded).logits)


@pytest.mark.parametrize("line", LINES)
def test_logits_depend_on_the_picture(line: str, folders: Any) -> None:
    model, processor = tiny_models.load(line, folders[line])
    with torch.no_grad():
        one, other = (model(**processor.inputs([ASKED], [picture(i)])).logits[0, -1] for i in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("line", LINES)
def test_the_seed_decides_the_weights(line: str, processors: Mapping[str, Processor], tiny: TinySize) -> None:
    one, same, other = (
        tiny_models.build(processors[line], tiny, seed=seed).lm_head.weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_prompts_are_the_families_own_chats(processors: Mapping[str, Processor]) -> None:
    view = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert processors["full"].prompt("read the word.") == (
        f"<|im_start|>user\n{view}\nread the word.<|im_end|>\n<|im_start|>assistant\n"
    )
    view = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    assert processors["lora"].prompt("and now?", [("read it.", "TEA")]) == (
        f"<|im_start|>user\n{view}read it.<|im_end|>\n<|im_start|>assistant\nTEA<|im_end|>\n"
        "<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("line", LINES)
def test_tokens_in_parts_are_the_tokens_of_the_whole(line: str, processors: Mapping[str, Processor]) -> None:
    processor = processors[line]
    tokens, told = processor.turn(ASKED, "[2, 58, 32, 88]")
    whole = processor.ids(processor.prompt(ASKED) + "[2, 58, 32, 88]<|im_end|>")
    assert processor.head + tokens == whole
    assert processor.tokenizer.decode(tokens[-told:]) == "[2, 58, 32, 88]<|im_end|>"


@pytest.mark.parametrize(("line", "family"), [("full", "InternVL"), ("lora", "Qwen2VL")])
def test_the_folder_names_what_autoprocessor_looks_for(line: str, family: str, folders: Any) -> None:
    both = json.loads((folders[line] / "processor_config.json").read_text())
    assert both["processor_class"] == f"{family}Processor"
    assert both["video_processor"]["video_processor_type"] == f"{family}VideoProcessor"
    kind = both["image_processor"]["image_processor_type"]
    assert kind == {"full": "GotOcr2ImageProcessor", "lora": "Qwen2VLImageProcessor"}[line]
    older = json.loads((folders[line] / "preprocessor_config.json").read_text())
    assert older["image_processor_type"] == kind
    assert (folders[line] / "chat_template.jinja").is_file()
    assert (folders[line] / "generation_config.json").is_file()
    assert (
        AutoConfig.from_pretrained(folders[line]).model_type == {"full": "internvl", "lora": "qwen2_vl"}[line]
    )


@pytest.mark.parametrize("line", LINES)
def test_the_tokenizer_has_what_the_familys_processor_asks_it_for(
    line: str, folders: Any, processors: Mapping[str, Processor]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[line])
    for name, token in processors[line].family.extra.items():
        assert getattr(tokenizer, name) == token
        assert tokenizer(token)["input_ids"] == [getattr(tokenizer, f"{name}_id")]


@pytest.mark.parametrize("line", LINES)
def test_transformers_own_loader_accounts_for_every_tensor(line: str, folders: Any) -> None:
    _, info = AutoModelForImageTextToText.from_pretrained(folders[line], output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_a_missing_folder_another_family_and_an_unknown_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="optmerge bench train"):
        tiny_models.load("full", tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CheckpointError, match="llava"):
        tiny_models.load("full", tmp_path)
    with pytest.raises(InputError, match="full"):
        tiny_models.family_of("ful")
