"""Imported experts answer as the originals do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig

from optmerge.errors import InputError
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.importers import convert, import_expert
from worlds import models as tiny_models
from worlds import omni as tiny
from worlds.omni_originals import FRAMES, PATCHES, TOKENS, original, saved


def tokens(*runs: tuple[int, int]) -> dict[str, Any]:
    """A sentence with runs of (token, length)."""
    ids = [1, 5, *(token for token, length in runs for token in [*[token] * length, 7]), 11, 13]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, tiny_models.SIDE, tiny_models.SIDE)


def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("layer", [-2, -1, [-2]])
def test_llava_answers_the_same(strategy: str, layer: Any) -> None:
    model = original("llava", vision_feature_select_strategy=strategy, vision_feature_layer=layer)
    per_picture = PATCHES + (strategy == "full")
    inputs = tokens((tiny_models.IMAGE, per_picture), (tiny_models.IMAGE, per_picture))
    inputs["pixel_values"] = pictures(2)
    expert = convert(model, {"image": "<image>"})
    assert expert.config.towers["image"].tokens == per_picture
    assert torch.allclose(logits(expert, inputs), logits(model, inputs), atol=1e-5)


def test_llava_with_siglip_answers_the_same() -> None:
    vision = tiny_models._SIGLIP
    model = original("llava", vision_config=dict(vision), vision_feature_select_strategy="full")
    inputs = {**tokens((tiny_models.IMAGE, PATCHES)), "pixel_values": pictures(1)}
    expert = convert(model, {"image": "<image>"})
    assert torch.allclose(logits(expert, inputs), logits(model, inputs), atol=1e-5)


def test_video_llava_answers_the_same_with_both_towers_or_one() -> None:
    model = original("video_llava")
    image = (tiny_models.IMAGE, PATCHES)
    video = (tiny_models.VIDEO, FRAMES * (PATCHES + 1))
    clip = pictures(FRAMES)[None]
    for asked, inputs in (
        (
            ["image", "video"],
            {**tokens(image, video), "pixel_values": pictures(1), "pixel_values_videos": clip},
        ),
        (["image"], {**tokens(image), "pixel_values": pictures(1)}),
        (["video"], {**tokens(video), "pixel_values_videos": clip}),
    ):
        expert = convert(model, {modality: TOKENS[modality] for modality in asked})
        assert sorted(expert.config.towers) == asked
        assert torch.allclose(logits(expert, inputs), logits(model, inputs), atol=1e-5)


def test_qwen2_audio_answers_the_same_for_sounds_of_any_length() -> None:
    model = original("qwen2_audio")
    steps = 2 * model.config.audio_config.max_source_positions
    mask = (torch.arange(steps)[None] < torch.tensor([[steps], [9]])).long()
    lengths = [4, 2]  # halved by a convolution and halved again by averaging
    inputs = tokens(*((tiny_models.AUDIO, length) for length in lengths))
    sound = {"input_features": torch.randn(2, 8, steps)}
    expert = convert(model, {"audio": "<|AUDIO|>"})
    told = logits(expert, {**inputs, **sound, "input_features_mask": mask})
    expected = logits(model, {**inputs, **sound, "feature_attention_mask": mask})
    assert torch.allclose(told, expected, atol=1e-5)
    other = logits(expert, {**inputs, **sound, "input_features_mask": torch.roll(mask, 1, 0)})
    assert not torch.allclose(told[0, :6], other[0, :6], atol=1e-3)


def test_padding_is_left_out_by_every_kind_of_attention(tmp_path: Path) -> None:
    convert(original("qwen2_audio"), {"audio": "<|AUDIO|>"}).save_pretrained(tmp_path)
    inputs = tokens((tiny_models.AUDIO, 2))
    inputs |= {
        "input_features": torch.randn(1, 8, 16),
        "input_features_mask": (torch.arange(16) < 9).long()[None],
    }
    told = [
        logits(OmniForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=each), inputs)
        for each in ("eager", "sdpa")
    ]
    assert torch.allclose(told[0], told[1], atol=1e-5)


def test_a_tied_model_stays_tied() -> None:
    model = original("llava", tie_word_embeddings=True)
    expert = convert(model, {"image": "<image>"})
    assert expert.get_output_embeddings().weight is expert.get_input_embeddings().weight
    inputs = {**tokens((tiny_models.IMAGE, PATCHES)), "pixel_values": pictures(1)}
    assert torch.allclose(logits(expert, inputs), logits(model, inputs), atol=1e-5)


@pytest.mark.parametrize("name", ["llava", "video_llava", "qwen2_audio"])
def test_a_checkpoint_folder_becomes_an_expert_folder(name: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", name)
    model, processor = import_expert(source)
    for modality in model.config.towers:
        token = processor.towers[modality].token
        items = {tiny.ARGUMENT[modality]: [tiny.ITEMS[modality]()]}
        told = logits(model, dict(processor(f"w4 {token} w5", **items)))
        model.save_pretrained(tmp_path / "expert")
        processor.save_pretrained(tmp_path / "expert")
        back = OmniForConditionalGeneration.from_pretrained(tmp_path / "expert")
        again = OmniProcessor.from_pretrained(tmp_path / "expert")(f"w4 {token} w5", **items)
        assert torch.equal(told, logits(back, dict(again)))


def test_the_expert_sees_pictures_as_the_original_did(tmp_path: Path) -> None:
    _, processor = import_expert(saved(tmp_path, "llava"))
    white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
    seen = processor("<image>", images=white)["pixel_values"]
    assert torch.allclose(seen[0, 0], torch.tensor((1 - 0.4) / 0.26862954))


def test_what_no_tower_can_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="joins several layers"):
        convert(original("llava", vision_feature_layer=[-2, -1]), {"image": "<image>"})
    with pytest.raises(InputError, match="drops SigLIP's first patch"):
        convert(original("llava", vision_config=dict(tiny_models._SIGLIP)), {"image": "<image>"})
    with pytest.raises(InputError, match="video_llava has no audio tower"):
        import_expert(saved(tmp_path / "video", "video_llava"), ["audio"])
    CLIPVisionConfig().save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="model_type clip_vision_model"):
        import_expert(tmp_path / "other")
