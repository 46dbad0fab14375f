"""`python -m perf.composition`: three adapters of a 7 B omni model composed into one, beside the limits.

A language model in Qwen2-7B's shape; the model the experts started from, which is that language model with
the encoders of CLIP ViT-L/14 (for pictures, and for films frame by frame) and Whisper large; and for each
modality an adapter of rank 64. All weights are random.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from perf import measure, synthetic
from perf.run import RANK, ROOT, machine, record
from perf.synthetic import Stored
from transformers import CLIPVisionConfig, Qwen2Config, Qwen2ForCausalLM, WhisperConfig

from optmerge.bench.modalities import words
from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor, TowerConfig
from optmerge.omni.config import MODALITIES
from optmerge.omni.prompts import USUAL

FOLDER = ROOT / "omni-7b"
OPTIONS = {"adapter": ("--set", "output=adapter"), "dense, 2 GiB": ("--memory", "2GiB")}
"""What is written → more arguments of `optmerge omni compose`."""
TARGET = {"adapter": "≤ 60 s", "dense, 2 GiB": "≤ 2 × I/O + 60 s, ≤ 2 GiB"}
_CLIP = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
    image_size=336,
)
_WHISPER = WhisperConfig(
    d_model=1280,
    encoder_layers=32,
    encoder_attention_heads=20,
    encoder_ffn_dim=5120,
    decoder_layers=1,
    decoder_attention_heads=1,
    decoder_ffn_dim=1,
)
TOWERS = {"image": ("clip", _CLIP), "audio": ("whisper", _WHISPER), "video": ("frames", _CLIP)}
"""Modality → kind of its tower, and the encoder."""
_QWEN2_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    tie_word_embeddings=False,
    dtype="bfloat16",
    architectures=["Qwen2ForCausalLM"],
)


@dataclass(frozen=True)
class Composed:
    """What one composition cost; times in seconds, memory in bytes."""

    written: str
    cost: measure.Cost
    io_seconds: float
    idle: measure.Cost
    machine: dict[str, Any]


def main() -> None:
    """Composes once for each form of output, prints the costs and writes a record."""
    language, start, experts = inputs()
    files = [file for folder in (language, start, *experts) for file in folder.glob("*.safetensors")]
    idle, measured = measure.idle(), []
    for written, options in OPTIONS.items():
        out = ROOT / "composed"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "optmerge.cli", "omni", "compose", "--base", str(language)]
        for modality, expert in zip(MODALITIES, experts, strict=True):
            command += ["--expert", str(expert), "--tower", f"{modality}={expert.name}"]
        cost = measure.run([*command, "--out", str(out), "--quiet", *options])
        size = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
        shutil.rmtree(out)
        io_seconds = measure.io_limit(files, size, ROOT / "scratch")
        measured.append(Composed(written, cost, io_seconds, idle, machine()))
        peak, at_rest = (each.peak_anonymous_bytes / 2**20 for each in (cost, idle))
        print(
            f"{written:14s} {cost.wall_seconds:6.1f} s  I/O limit {io_seconds:6.1f} s  "
            f"peak {peak:6.0f} MiB (idle {at_rest:.0f})  "
            f"target {TARGET[written]}",
            flush=True,
        )
    record(measured, "compositions")


def inputs() -> tuple[Path, Path, list[Path]]:
    """Language model, starting model and adapters; made once."""
    tokenizer = words.tokenizer()
    config = OmniConfig(
        text_config=_QWEN2_7B,
        towers={each: _tower(each, tokenizer) for each in MODALITIES},
        dtype="bfloat16",
        architectures=[OmniForConditionalGeneration.__name__],
    )

    def fill_language(folder: Path) -> None:
        _QWEN2_7B.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        synthetic.weights(folder, _stored(Qwen2ForCausalLM, _QWEN2_7B))

    def stored() -> list[Stored]:
        return _stored(OmniForConditionalGeneration, config)

    def fill_start(folder: Path) -> None:
        config.save_pretrained(folder)
        OmniProcessor.from_config(config, tokenizer).save_pretrained(folder)
        synthetic.weights(folder, stored(), prefix="language_model.")

    start = synthetic.once(FOLDER / "start", fill_start)
    adapters = [synthetic.adapter_of(start, stored, index, RANK) for index in range(len(MODALITIES))]
    return synthetic.once(FOLDER / "language", fill_language), start, adapters


def _tower(modality: str, tokenizer: Any) -> TowerConfig:
    kind, encoder = TOWERS[modality]
    token = USUAL[modality]
    return TowerConfig(
        kind=kind, encoder=encoder, token=token, token_id=tokenizer.convert_tokens_to_ids(token)
    )


def _stored(model: type, config: Any) -> list[Stored]:
    with torch.device("meta"):
        return [(name, tuple(each.shape)) for name, each in model(config).state_dict().items()]


if __name__ == "__main__":
    main()
