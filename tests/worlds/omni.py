"""Tiny omni models of every kind of tower, built from configurations: nothing is downloaded."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from optmerge.omni import (
    OmniConfig,
    OmniForConditionalGeneration,
    OmniProcessor,
    TowerConfig,
    add_placeholders,
)

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnop", "what", "is", "this", "?", "answer", "now"]
SIDE, RATE = 8, 16_000

TEXT = {
    "model_type": "qwen2",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 4,
}
_MEL = {
    "num_mel_bins": 16,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 50,
}

ENCODERS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", **_VISION},
    "siglip": {"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
    "dinov2": {"model_type": "dinov2", **_VISION, "mlp_ratio": 2},
    "whisper": {
        "model_type": "whisper",
        **_MEL,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
        "vocab_size": 40,
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
    },
    "ast": {
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "frequency_stride": 8,
        "time_stride": 8,
        "max_length": 48,
        "num_mel_bins": 16,
    },
    "qwen2_audio": {"model_type": "qwen2_audio_encoder", **_MEL},
    "frames": {"model_type": "clip_vision_model", **_VISION},
    "videomae": {"model_type": "videomae", **_VISION, "num_frames": 4, "tubelet_size": 2},
}


def tokenizer() -> Any:
    """One token a word; all three placeholders, the last of them outside of the vocabulary of 40."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    add_placeholders(found)
    return found


def tower(kind: str, words: Any = None, **options: Any) -> TowerConfig:
    encoder = AutoConfig.for_model(**ENCODERS[kind])
    config = TowerConfig(kind=kind, encoder=encoder, **options)
    return TowerConfig(
        kind=kind,
        encoder=encoder,
        **{"token_id": (words or tokenizer()).convert_tokens_to_ids(config.token), **options},
    )


def config(*kinds: str, **text: Any) -> OmniConfig:
    towers = {each.modality: each for each in map(tower, kinds)}
    return OmniConfig(text_config=AutoConfig.for_model(**{**TEXT, **text}), towers=towers)


def model(*kinds: str, seed: int = 0, **text: Any) -> OmniForConditionalGeneration:
    """A model with these towers, no parameter of it zero."""
    torch.manual_seed(seed)
    made = OmniForConditionalGeneration(config(*kinds, **text))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made.eval()


def processor(made: OmniForConditionalGeneration) -> OmniProcessor:
    return OmniProcessor.from_config(made.config, tokenizer())


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8))


def sound(seed: int = 0, seconds: float = 0.4) -> np.ndarray:
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 300 * generator.random()) * times)).astype(np.float32)


def clip(seed: int = 0, frames: int = 6) -> list[Image.Image]:
    return [picture(100 * seed + frame) for frame in range(frames)]


ITEMS = {"image": picture, "audio": sound, "video": clip}
ARGUMENT = {"image": "images", "audio": "audio", "video": "videos"}


def write_wave(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    data = np.repeat((samples * 32767).astype("<i2")[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return path


def write_video(
    path: Path, shades: Sequence[Any], sound: np.ndarray | None = None, *, faststart: bool = False
) -> Path:
    """A video of frames of one shade each, or of arrays, and perhaps sound; an MP4's index may come first."""
    import av

    options = {"movflags": "faststart"} if faststart and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        heard = container.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        for shade in shades:
            frame = av.VideoFrame.from_ndarray(
                np.array(np.broadcast_to(shade, (32, 32, 3)), np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate = RATE
            container.mux(heard.encode(block))
            container.mux(heard.encode())
    return path
