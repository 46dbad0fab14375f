"""What a kind of tower declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from optmerge.errors import InputError


class TowerShape(Protocol):
    """The part of a tower's configuration that a kind reads; `optmerge.omni.TowerConfig` has it."""

    @property
    def encoder(self) -> Any:
        """Configuration of the encoder."""

    @property
    def layer(self) -> Any:
        """Number of the hidden state that is taken; None for the encoder's output."""

    @property
    def special(self) -> bool:
        """Whether the encoder's special tokens are kept."""

    @property
    def pooling(self) -> list[int] | None:
        """Number of neighbours averaged into one along each axis of the grid."""

    @property
    def frames(self) -> int | None:
        """Number of pictures taken of a video; None for other modalities."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of positions that the encoder gives for one item along each axis."""

    @property
    def tokens(self) -> int:
        """Number of embeddings of one item after pooling, at most."""


def _from_config(config: Any, **options: Any) -> Any:
    from transformers import AutoModel

    return AutoModel.from_config(config, **options)


def _no_frames(encoder: Any, asked: int | None) -> int | None:
    if asked is not None:
        raise InputError("only videos have frames", got=f"frames: {asked}", hint="leave frames out")
    return None


def _all_tokens(config: TowerShape, mask: Tensor | None, items: int) -> list[int]:
    return [config.tokens] * items


@dataclass(frozen=True)
class Extracted:
    """Tensors that an extractor makes of some items.

    Args:
        values: (items, …), as the encoder takes them.
        mask: (items, steps); 1 for signal, 0 for padding; None if the kind needs none.
    """

    values: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class TowerKind:
    """How an encoder is called, and what of its output becomes embeddings.

    Args:
        name: name of the kind in configurations, which is the name of its file.
        modality: `image`, `audio` or `video`.
        encoders: `model_type`s of the encoders that the kind can call.
        grid: (tower) → number of positions that the encoder gives for one item along each axis.
        features: (tower, encoder, values, mask) → encoder states (items, *grid, width).
        extractor: (tower) → a feature extractor or image processor that suits the encoder.
        extract: (extractor, items) → tensors. Items are PIL pictures, waveforms at the extractor's rate,
            or lists of PIL frames.
        layer: default of `TowerConfig.layer`.
        pooling: default of `TowerConfig.pooling`; used if its axes are as many as the grid's.
        build: (encoder's configuration, **options) → the encoder, as `AutoModel.from_config` makes it.
        frames: (encoder's configuration, frames asked for) → number of frames taken of a video.
        lengths: (tower, mask, items) → number of embeddings of each item; `tower.tokens` by default.
        seconds: (extractor) → seconds of sound that the encoder takes; None if the encoder has no fixed
            window.
    """

    name: str
    modality: str
    encoders: tuple[str, ...]
    grid: Callable[[TowerShape], tuple[int, ...]]
    features: Callable[[TowerShape, nn.Module, Tensor, Tensor | None], Tensor]
    extractor: Callable[[TowerShape], Any]
    extract: Callable[[Any, Sequence[Any]], Extracted]
    layer: int | None = None
    pooling: tuple[int, ...] = ()
    build: Callable[..., Any] = _from_config
    frames: Callable[[Any, int | None], int | None] = _no_frames
    lengths: Callable[[TowerShape, Tensor | None, int], list[int]] = _all_tokens
    seconds: Callable[[Any], float] | None = None

    def check_encoder(self, encoder: Any) -> None:
        """Refuses an encoder that this kind can't call.

        Raises:
            InputError: another encoder; the message names the ones that this kind can call.
        """
        if encoder.model_type not in self.encoders:
            raise InputError(
                "the tower can't call this encoder",
                where=f"tower kind {self.name}",
                got=encoder.model_type,
                expected=", ".join(self.encoders),
                hint="choose the kind that is made for the encoder",
            )


def hidden_states(config: TowerShape, outputs: Any) -> Tensor:
    """States that the tower takes of the outputs of an encoder called with `hidden_options(config)`."""
    states: Tensor = (
        outputs.last_hidden_state if config.layer is None else outputs.hidden_states[config.layer]
    )
    return states


def hidden_options(config: TowerShape) -> dict[str, bool]:
    """Options of the encoder's call under which `hidden_states` finds its states."""
    return {"output_hidden_states": config.layer is not None}
