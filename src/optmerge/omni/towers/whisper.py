"""Whisper's encoder, which takes a window of fixed length; Whisper's decoder isn't built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optmerge.errors import InputError
from optmerge.omni.towers._kind import Extracted, TowerKind, TowerShape, hidden_options, hidden_states

POSITIONS_A_SECOND = 50


def build(config: Any, **options: Any) -> Any:
    """The encoder alone; `AutoModel` would make the whole Whisper of this configuration."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder._from_config(config, **options)


def window(config: TowerShape) -> int:
    """Length of the encoder's window in seconds.

    Raises:
        InputError: the window is no whole number of seconds.
    """
    positions: int = config.encoder.max_source_positions
    seconds, rest = divmod(positions, POSITIONS_A_SECOND)
    if rest or not seconds:
        raise InputError(
            "no feature extractor is known for this length",
            got=f"max_source_positions: {positions}",
            expected=f"a multiple of {POSITIONS_A_SECOND}, which is a second",
            hint="make one and give it to OmniProcessor",
        )
    return seconds


def _grid(config: TowerShape) -> tuple[int, ...]:
    return (config.encoder.max_source_positions,)


def _features(config: TowerShape, encoder: nn.Module, values: Tensor, mask: Tensor | None) -> Tensor:
    """Log-mel spectrograms (items, bins, steps) → (items, positions, width)."""
    return hidden_states(config, encoder(values, **hidden_options(config)))


def extractor(config: TowerShape) -> Any:
    """Whisper's feature extractor, with the encoder's mel bins and window."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=config.encoder.num_mel_bins, chunk_length=window(config))


def _extract(extractor: Any, items: Sequence[Any]) -> Extracted:
    """Waveforms → (items, bins, steps), padded with silence to the window."""
    found = extractor(list(items), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return Extracted(found["input_features"])


def seconds(extractor: Any) -> float:
    """Length of the extractor's window in seconds."""
    return float(extractor.chunk_length)


KIND = TowerKind(
    name="whisper",
    modality="audio",
    encoders=("whisper",),
    grid=_grid,
    features=_features,
    extractor=extractor,
    extract=_extract,
    pooling=(4,),
    build=build,
    seconds=seconds,
)
