import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from optmerge.bench import curriculum, models
from optmerge.errors import CheckpointError

TINY = models.Size(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, mlp=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    processor = models.build_processor(curriculum.vocabulary(), TINY)
    path = tmp_path_factory.mktemp("models") / "tiny"
    models.save(models.build_model(processor, TINY, seed=0), processor, path, dtype=torch.float32)
    return path


def test_the_loader_gives_back_model_and_processor_without_torchvision(folder: Path) -> None:
    before = models.build_processor(curriculum.vocabulary(), TINY)
    model, after = models.load(folder)
    picture = Image.new("RGB", (64, 64), (200, 30, 60))
    assert torch.equal(before.pixels([picture]), after.pixels([picture]))
    assert before.tokens("is there a teal shape?") == after.tokens("is there a teal shape?")
    original = models.build_model(before, TINY, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), model.parameters(), strict=True))


def test_no_word_of_the_task_is_unknown_to_the_tokenizer(folder: Path) -> None:
    _, processor = models.load(folder)
    for word in curriculum.vocabulary():
        assert processor.tokenizer.unk_token_id not in processor.tokenizer(word)["input_ids"]
    ids = processor.tokens("is there not a teal shape in the image?")
    assert processor.tokenizer.unk_token_id not in ids
    assert ids.count(processor.tokenizer.context_image_token_id) == TINY.image_tokens == 16


def test_the_prompt_is_internvls_chat(folder: Path) -> None:
    _, processor = models.load(folder)
    view = "<img>" + "<IMG_CONTEXT>" * 16 + "</img>"
    assert processor.prompt("what color is the shape?") == (
        f"<|im_start|>user\n{view}\nwhat color is the shape?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_folder_names_what_autoprocessor_looks_for(folder: Path) -> None:
    both = json.loads((folder / "processor_config.json").read_text())
    assert both["processor_class"] == "InternVLProcessor"
    assert both["image_processor"]["image_processor_type"] == "GotOcr2ImageProcessor"
    assert both["video_processor"]["video_processor_type"] == "InternVLVideoProcessor"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("start_image_token", "end_image_token", "context_image_token", "video_token"):
        assert tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) != tokenizer.unk_token_id
    assert (folder / "chat_template.jinja").is_file() and (folder / "generation_config.json").is_file()
    assert AutoConfig.from_pretrained(folder).model_type == "internvl"


def test_transformers_own_loader_accounts_for_every_tensor(folder: Path) -> None:
    _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        models.load(tmp_path / "nowhere")
    assert "nowhere" in str(caught.value) and "optmerge bench train" in str(caught.value)
