"""Qwen2-Audio's encoder: Whisper's with pairs of positions averaged; padding gets no embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optmerge.errors import InputError
from optmerge.omni.towers._kind import Extracted, TowerKind, TowerShape, hidden_options, hidden_states
from optmerge.omni.towers.whisper import extractor, seconds


def _grid(config: TowerShape) -> tuple[int, ...]:
    return (config.encoder.max_source_positions // 2,)


def _features(config: TowerShape, encoder: Any, values: Tensor, mask: Tensor | None) -> Tensor:
    """Log-mel spectrograms (items, bins, steps) and their mask → (items, positions, width)."""
    from transformers.masking_utils import create_bidirectional_mask

    heard = _after_stride(_required(mask).sum(-1))
    positions = torch.arange(config.encoder.max_source_positions, device=values.device)
    flat = (positions[None] < heard[:, None]).long()
    shape = values.new_zeros(*flat.shape, 1)
    attention = create_bidirectional_mask(config=encoder.config, inputs_embeds=shape, attention_mask=flat)
    return hidden_states(config, encoder(values, attention_mask=attention, **hidden_options(config)))


def _lengths(config: TowerShape, mask: Tensor | None, items: int) -> list[int]:
    """Number of embeddings of each sound: those of positions that hold more than padding."""
    (by,) = config.pooling or (1,)
    pairs = (_after_stride(_required(mask).sum(-1)) - 2) // 2 + 1
    return [max(1, -(-int(count) // by)) for count in pairs]


def _required(mask: Tensor | None) -> Tensor:
    if mask is None:
        raise InputError("the sounds come without a mask", expected="input_features_mask, from OmniProcessor")
    return mask


def _after_stride(steps: Tensor) -> Tensor:
    """Number of positions after the convolution with stride 2."""
    return (steps - 1) // 2 + 1


def _extract(extractor: Any, items: Sequence[Any]) -> Extracted:
    """Waveforms → spectrograms (items, bins, steps) and their mask (items, steps)."""
    rate = extractor.sampling_rate
    found = extractor(list(items), sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
    return Extracted(found["input_features"], found["attention_mask"])


KIND = TowerKind(
    name="qwen2_audio",
    modality="audio",
    encoders=("qwen2_audio_encoder",),
    grid=_grid,
    features=_features,
    extractor=extractor,
    extract=_extract,
    lengths=_lengths,
    seconds=seconds,
)
