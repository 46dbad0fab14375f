"""The benchmark's tiny models: a language model, and for each modality an encoder of transformers' own.

Pictures go through SigLIP's encoder, sound through Whisper's, films through VideoMAE's. The latter sees all
frames at once, so that each of its tokens can tell how a thing moves; of pictures read frame by frame the
language model would have to find that out, at eight times the patches.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optmerge.bench.lines.tiny import initial
from optmerge.bench.lines.tiny.tokenizer import END, STOP
from optmerge.bench.modalities.sights import FRAMES
from optmerge.bench.modalities.sounds import SECONDS
from optmerge.bench.modalities.world import Modality
from optmerge.bench.tasks import SIDE
from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor, TowerConfig
from optmerge.omni.prompts import USUAL
from optmerge.omni.tower import Tower
from optmerge.omni.towers.whisper import POSITIONS_A_SECOND

_INTO_THE_STREAM = ("out_proj", "fc2", "output.dense", "attention.o_proj", "down_proj")
"""Ends of the names of weights whose outputs are added to the encoders' residual streams."""
_HEAD = 32


@dataclass(frozen=True)
class OmniSize:
    """Shape of the models; heads are 32 wide.

    Args:
        width: of the language model.
        layers: of the language model.
        heads: of queries.
        groups: of keys and values.
        mlp: width inside the language model's layers.
        encoder_width: of each encoder.
        encoder_layers: of each encoder.
        encoder_mlp: width inside the encoders' layers.
        patch: pixels along a side, in pictures and films.
        image_pooling: neighbours along each axis that share an embedding; likewise for
        video_pooling: time, rows, columns, and
        audio_pooling: time.
    """

    width: int = 192
    layers: int = 6
    heads: int = 6
    groups: int = 2
    mlp: int = 512
    encoder_width: int = 128
    encoder_layers: int = 4
    encoder_mlp: int = 384
    patch: int = 14
    image_pooling: tuple[int, ...] = (1, 1)
    video_pooling: tuple[int, ...] = (1, 2, 2)
    audio_pooling: tuple[int, ...] = (2,)


def language(size: OmniSize, tokenizer: Any, *, seed: int) -> Any:
    """A randomly initialised `LlamaForCausalLM` in float32.

    Not a Qwen2: whatever tokenizer lies beside one, transformers' `AutoTokenizer` cuts as Qwen2's own does.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    stop = {
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(STOP),
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.groups,
        intermediate_size=size.mlp,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **stop,
    )
    model = LlamaForCausalLM(config)
    initial.draw(model, layers=size.layers)
    model.generation_config.update(**stop, do_sample=False)
    return model


def tower_config(modality: Modality, size: OmniSize, tokenizer: Any) -> TowerConfig:
    """The tower of a modality, not yet built."""
    kind, encoder, pooling = {
        "image": ("siglip", _siglip, size.image_pooling),
        "audio": ("whisper", _whisper, size.audio_pooling),
        "video": ("videomae", _videomae, size.video_pooling),
    }[modality]
    token = USUAL[modality]
    return TowerConfig(
        kind=kind,
        encoder=encoder(size),
        pooling=list(pooling),
        token=token,
        token_id=tokenizer.convert_tokens_to_ids(token),
    )


def _layers(size: OmniSize) -> dict[str, Any]:
    return {
        "hidden_size": size.encoder_width,
        "num_hidden_layers": size.encoder_layers,
        "num_attention_heads": size.encoder_width // _HEAD,
        "intermediate_size": size.encoder_mlp,
    }


def _siglip(size: OmniSize) -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**_layers(size), image_size=SIDE, patch_size=size.patch, vision_use_head=False)


def _videomae(size: OmniSize) -> Any:
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        **_layers(size),
        image_size=SIDE,
        patch_size=size.patch,
        num_frames=FRAMES,
        tubelet_size=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        use_mean_pooling=False,
    )


def _whisper(size: OmniSize) -> Any:
    from transformers import WhisperConfig

    return WhisperConfig(
        d_model=size.encoder_width,
        encoder_layers=size.encoder_layers,
        num_mel_bins=80,
        dropout=0.0,
        encoder_attention_heads=size.encoder_width // _HEAD,
        encoder_ffn_dim=size.encoder_mlp,
        max_source_positions=round(SECONDS * POSITIONS_A_SECOND),
        # Of the decoder, which isn't built.
        decoder_layers=1,
        decoder_attention_heads=1,
        decoder_ffn_dim=1,
        vocab_size=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )


def tower(config: TowerConfig, size: OmniSize, *, seed: int) -> Tower:
    """A randomly initialised tower in float32, drawn for narrow layers as `lines.initial` has it."""
    torch.manual_seed(seed)
    made = Tower(config, size.width)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "embed_positions" in name:
                continue  # Whisper's own waves
            if "position_embedding" in name:
                weight.copy_(initial.waves(math.isqrt(len(weight)), weight.shape[1]))
            elif weight.dim() >= 2:
                inputs = weight[0].numel()
                adds = any(part in name for part in _INTO_THE_STREAM)
                weight.normal_(std=(inputs * (2 * size.encoder_layers if adds else 1)) ** -0.5)
    return made


def joined(language: Any, towers: dict[Modality, Tower]) -> Any:
    """An omni model of a language model and towers; without towers it takes text alone."""
    config = OmniConfig(
        text_config=language.config, towers={modality: each.config for modality, each in towers.items()}
    )
    model = OmniForConditionalGeneration(config)
    model.language_model.load_state_dict(language.state_dict())
    for modality, each in towers.items():
        model.towers[modality].load_state_dict(each.state_dict())
    model.generation_config = copy.deepcopy(language.generation_config)
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a language model or an omni model in bfloat16; the model itself is left as it is."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    if isinstance(model, OmniForConditionalGeneration):
        OmniProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)


def load(folder: Path, adapter: Path | None = None) -> tuple[Any, Any]:
    """A model in float32 and eval mode, and its `OmniProcessor`, or tokenizer where it takes text alone.

    Args:
        folder: that `save` or a composition wrote.
        adapter: to be added to the weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not (folder / "processor_config.json").is_file():
        language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return language.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if adapter is not None:
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by an older name
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval(), OmniProcessor.from_pretrained(folder, local_files_only=True)


def extracted(processor: OmniProcessor, modality: Modality, items: list[Any]) -> Tensor:
    """Pictures, waveforms or lists of frames as the tower takes them, (items, …)."""
    from optmerge.omni.towers import tower_kind

    kind = tower_kind(processor.towers[modality].kind)
    return kind.extract(processor.extractors[modality], items).values
