"""What a kind of tower knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from optmerge.errors import InputError

if TYPE_CHECKING:
    from optmerge.omni.config import TowerConfig


def _from_config(config: Any, **options: Any) -> Any:
    from transformers import AutoModel

    return AutoModel.from_config(config, **options)


def _no_frames(encoder: Any, asked: int | None) -> int | None:
    if asked is not None:
        raise InputError("only videos have frames", got=f"frames: {asked}", hint="leave frames out")
    return None


def _whole(config: TowerConfig, mask: Tensor | None, items: int) -> list[int]:
    return [config.tokens] * items


@dataclass(frozen=True)
class Extracted:
    """What an extractor makes of some items.

    Args:
        values: (items, …), as the encoder takes them.
        mask: (items, steps); 1 for signal, 0 for padding; None where the kind needs none.
    """

    values: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class TowerKind:
    """How an encoder is called, and what of its output becomes embeddings.

    Args:
        name: in configurations; the name of its file.
        modality: what it takes.
        encoders: `model_type`s of the encoders it knows.
        grid: positions the encoder gives for one item, along each axis.
        features: (tower, encoder, values, mask) → (items, *grid, width).
        extractor: makes a feature extractor or image processor that suits the encoder.
        extract: (extractor, items) → tensors. Items are PIL pictures, waveforms at the extractor's rate,
            or lists of PIL frames.
        layer: default of `TowerConfig.layer`.
        pooling: default of `TowerConfig.pooling`, where it has as many axes as the grid.
        build: makes the encoder of its configuration, like `AutoModel.from_config`.
        frames: (encoder's configuration, frames asked for) → frames taken of a video.
        lengths: (tower, mask, items) → embeddings of each item; all of them unless it depends on the mask.
        seconds: how much sound the extractor hears; None where that is no question.
    """

    name: str
    modality: str
    encoders: tuple[str, ...]
    grid: Callable[[TowerConfig], tuple[int, ...]]
    features: Callable[[TowerConfig, nn.Module, Tensor, Tensor | None], Tensor]
    extractor: Callable[[TowerConfig], Any]
    extract: Callable[[Any, Sequence[Any]], Extracted]
    layer: int | None = None
    pooling: tuple[int, ...] = ()
    build: Callable[..., Any] = _from_config
    frames: Callable[[Any, int | None], int | None] = _no_frames
    lengths: Callable[[TowerConfig, Tensor | None, int], list[int]] = _whole
    seconds: Callable[[Any], float] | None = None

    def check_encoder(self, encoder: Any) -> None:
        """Refuses an encoder this kind can't call.

        Raises:
            InputError: with the encoders it knows.
        """
        if encoder.model_type not in self.encoders:
            raise InputError(
                "the tower can't call this encoder",
                where=f"tower kind {self.name}",
                got=encoder.model_type,
                expected=", ".join(self.encoders),
                hint="choose the kind that is made for the encoder",
            )


def hidden(config: TowerConfig, outputs: Any) -> Tensor:
    """The states a tower takes of what its encoder returned, called with `wanted(config)`."""
    states: Tensor = (
        outputs.last_hidden_state if config.layer is None else outputs.hidden_states[config.layer]
    )
    return states


def wanted(config: TowerConfig) -> dict[str, bool]:
    """What to ask of the encoder, so that `hidden` finds its states."""
    return {"output_hidden_states": config.layer is not None}
