"""Tiny LLaVA, Video-LLaVA and Qwen2-Audio checkpoints, as they would be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from worlds import models as tiny_models

TOKENS = {"image": "<image>", "video": "<video>", "audio": "<|AUDIO|>"}
PATCHES = tiny_models.PATCHES
FRAMES = 3


def original(name: str, **options: Any) -> Any:
    if name == "video_llava":
        options.setdefault("video_seq_length", FRAMES * (PATCHES + 1))
    return tiny_models.build(name, **options)


def saved(folder: Path, name: str) -> Path:
    """A checkpoint with tokenizer and extractor, as it would be downloaded."""
    model = (
        original(name)
        if name != "qwen2_audio"
        else original(
            name,
            audio_config={
                **tiny_models._AUDIO,
                "model_type": "qwen2_audio_encoder",
                "max_source_positions": 50,
            },
        )
    )
    model.save_pretrained(folder)
    words = {f"w{n}": n for n in range(tiny_models.VOCABULARY)}
    for modality, token in TOKENS.items():
        number = getattr(tiny_models, modality.upper())
        del words[f"w{number}"]
        words[token] = number
    rules = Tokenizer(models.WordLevel(words, unk_token="w3"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rules, unk_token="w3", pad_token="w0", eos_token="w2"
    )
    tokenizer.add_tokens(list(TOKENS.values()), special_tokens=True)
    tokenizer.save_pretrained(folder)
    square = {"height": tiny_models.SIDE, "width": tiny_models.SIDE}
    if name == "qwen2_audio":
        WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    else:
        CLIPImageProcessorPil(size=square, crop_size=square, image_mean=[0.4] * 3).save_pretrained(folder)
    return folder
