"""The Audio Spectrogram Transformer: patches of a spectrogram, frequency by time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optmerge.omni.towers._kind import Extracted, TowerKind, TowerShape, hidden_options, hidden_states

SPECIAL = 2
"""The class token and the distillation token."""

STEPS_A_SECOND = 100


def _patches(config: TowerShape) -> tuple[int, int]:
    encoder = config.encoder
    bins, steps = encoder.num_mel_bins - encoder.patch_size, encoder.max_length - encoder.patch_size
    return bins // encoder.frequency_stride + 1, steps // encoder.time_stride + 1


def _grid(config: TowerShape) -> tuple[int, ...]:
    frequencies, times = _patches(config)
    return (SPECIAL + frequencies * times,) if config.special else (frequencies, times)


def _features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Spectrograms (items, steps, bins) → (items, frequencies, times, width)."""
    states = hidden_states(config, encoder(values, **hidden_options(config)))
    if config.special:
        return states
    return states[:, SPECIAL:].reshape(len(states), *_patches(config), -1)


def _extractor(config: TowerShape) -> Any:
    from transformers import ASTFeatureExtractor

    encoder = config.encoder
    return ASTFeatureExtractor(num_mel_bins=encoder.num_mel_bins, max_length=encoder.max_length)


def _extract(extractor: Any, items: Sequence[Any]) -> Extracted:
    """Waveforms → (items, steps, bins)."""
    found = extractor(list(items), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return Extracted(found["input_values"])


def _seconds(extractor: Any) -> float:
    return float(extractor.max_length / STEPS_A_SECOND)


KIND = TowerKind(
    name="ast",
    modality="audio",
    encoders=("audio-spectrogram-transformer",),
    grid=_grid,
    features=_features,
    extractor=_extractor,
    extract=_extract,
    pooling=(4, 4),
    seconds=_seconds,
)
