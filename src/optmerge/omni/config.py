"""Configuration of an omni model: a causal language model and a tower for each modality that it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from optmerge.errors import InputError
from optmerge.omni.carried_code import carry_code
from optmerge.omni.towers import tower_kind

NO_TOKEN = -1
"""Id of a placeholder that no tokenizer has yet."""

MODALITIES = ("image", "audio", "video")


class TowerConfig(PreTrainedConfig):  # type: ignore[misc]
    """The tower of one modality: encoder, pooling, projector, placeholder.

    Args:
        kind: name of the kind of tower, which says how the encoder is called; see `optmerge.omni.towers`.
        encoder: configuration of the encoder.
        token: placeholder that stands for one item in a prompt; `<image>` and the like by default.
        token_id: id of the placeholder in the tokenizer. The language model needs no embedding for it.
        layer: number of the encoder's hidden state that is taken, as `hidden_states[layer]`; None takes the
            encoder's output. The kind's default when left out.
        special: keep the encoder's special tokens (CLIP's class token); the positions then lie in one row.
        pooling: number of neighbours averaged into one along each axis of an item's positions. The kind's
            default when left out.
        frames: number of pictures taken of a video; the encoder's own number where it has one.
        projector_depth: number of linear layers of the projector, with activations between them.
        projector_act: name of the activation, as transformers has it.
        projector_bias: whether the linear layers have biases.

    Raises:
        InputError: an unknown kind, an encoder that the kind can't call, or values that don't fit the
            encoder.
    """

    model_type = "optmerge_omni_tower"
    sub_configs_defaults = {"encoder": SubConfigSpec(AutoConfig, model_type="clip_vision_model")}  # noqa: RUF012

    kind: str = "clip"
    encoder: Any = None
    token: str | None = None
    token_id: int = NO_TOKEN
    layer: int | str | None = "default"
    special: bool = False
    pooling: list[int] | None = None
    frames: int | None = None
    projector_depth: int = 2
    projector_act: str = "gelu"
    projector_bias: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        kind = tower_kind(self.kind)
        kind.check_encoder(self.encoder)
        self.token = self.token or f"<{kind.modality}>"
        self.layer = kind.layer if self.layer == "default" else self.layer
        self.frames = kind.frames(self.encoder, self.frames)
        axes = len(self.grid)
        pooling = self.pooling or (list(kind.pooling) if len(kind.pooling) == axes else [1] * axes)
        if len(pooling) != axes or min(pooling) < 1:
            raise InputError(
                "the pooling doesn't fit the tower",
                where=f"tower kind {self.kind}",
                got=pooling,
                expected=f"one number ≥ 1 for each axis of {self.grid}",
            )
        self.pooling = list(pooling)

    @property
    def modality(self) -> str:
        """Modality that the tower takes."""
        return tower_kind(self.kind).modality

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of positions that the encoder gives for one item, along each axis."""
        return tower_kind(self.kind).grid(self)

    @property
    def pooled(self) -> tuple[int, ...]:
        """Number of positions left after pooling, along each axis; a window at the edge may be smaller."""
        return tuple(-(-length // by) for length, by in zip(self.grid, self.pooling or (), strict=True))

    @property
    def tokens(self) -> int:
        """Number of embeddings of one item; the largest one, where it depends on the item's length."""
        count = 1
        for length in self.pooled:
            count *= length
        return count


_TOWER = SubConfigSpec(TowerConfig, optional=True)


class OmniConfig(PreTrainedConfig):  # type: ignore[misc]
    """A causal language model and up to one tower for each modality.

    Args:
        text_config: configuration of any causal language model.
        towers: modality → tower; another way to give the next three.
        image_tower: tower for pictures.
        audio_tower: tower for sound.
        video_tower: tower for videos.
        routes: name of a linear layer of the language model → route → rank, for adapters that only some
            tokens go through; see `optmerge.omni.routing`.

    Raises:
        InputError: a tower of another modality, or two towers with one placeholder.
    """

    model_type = "optmerge_omni"
    sub_configs_defaults = {  # noqa: RUF012
        "text_config": SubConfigSpec(AutoConfig, model_type="qwen2"),
        **{f"{modality}_tower": _TOWER for modality in MODALITIES},
    }

    text_config: Any = None
    image_tower: Any = None
    audio_tower: Any = None
    video_tower: Any = None
    routes: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for modality, tower in (kwargs.pop("towers", None) or {}).items():
            if modality not in MODALITIES:
                raise InputError("unknown modality", got=modality, expected=", ".join(MODALITIES))
            setattr(self, f"{modality}_tower", tower)
        super().__post_init__(**kwargs)
        self._check_towers()

    @property
    def towers(self) -> dict[str, TowerConfig]:
        """Towers that the model has, by modality."""
        found = {modality: getattr(self, f"{modality}_tower") for modality in MODALITIES}
        return {modality: tower for modality, tower in found.items() if tower is not None}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes the configuration, and the code of the model beside it."""
        carry_code(self, save_directory)
        super().save_pretrained(save_directory, **kwargs)

    def _check_towers(self) -> None:
        for modality, tower in self.towers.items():
            if tower.modality != modality:
                raise InputError(
                    "the tower takes another modality",
                    where=f"{modality}_tower",
                    got=f"kind {tower.kind}, for {tower.modality}",
                    hint=f"give it as {tower.modality}_tower",
                )
        check_placeholders(self.towers)


def check_placeholders(
    towers: Mapping[str, TowerConfig], owners: str = "towers", hint: str = "each needs a token of its own"
) -> None:
    """Refuses towers that would answer to one placeholder.

    Args:
        towers: modality → tower.
        owners: whose towers they are, in the message.
        hint: the next step, in the message.

    Raises:
        InputError: two towers have one token, or one id of it.
    """
    for key in ("token", "token_id"):
        used: dict[Any, str] = {}
        for modality, tower in towers.items():
            value = getattr(tower, key)
            if value != NO_TOKEN and value in used:
                raise InputError(
                    f"two {owners} have one placeholder",
                    where=f"{used[value]} and {modality}",
                    got=f"{key} {value}",
                    hint=hint,
                )
            used[value] = modality


AutoConfig.register(OmniConfig.model_type, OmniConfig, exist_ok=True)
