"""Processor of an omni model: prompts and media become the model's inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    ProcessorMixin,
)

from optmerge.errors import CheckpointError, InputError
from optmerge.evaluate.questions import read_picture
from optmerge.omni.carried_code import carry_code
from optmerge.omni.config import MODALITIES, OmniConfig, TowerConfig
from optmerge.omni.media import chosen, heard, read_audio, read_video
from optmerge.omni.model import MASKS, VALUES
from optmerge.omni.prompts import USUAL, check_counts, expand
from optmerge.omni.towers import tower_kind

FOLDER = "towers"
"""Subfolder of a checkpoint; it holds a folder for each tower's extractor."""


class OmniProcessor(ProcessorMixin):  # type: ignore[misc]
    """A tokenizer, and for each tower the feature extractor or image processor of its encoder.

    Args:
        tokenizer: tokenizer that reads each tower's placeholder as one token.
        towers: modality → tower.
        extractors: modality → extractor; where none is given, the one that the tower's kind makes.
        chat_template: template of conversations; the tokenizer's by default.

    Raises:
        InputError: a placeholder isn't one token, or has another id than its tower says.
    """

    def __init__(
        self,
        tokenizer: Any,
        towers: Mapping[str, TowerConfig],
        extractors: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.towers = dict(towers)
        given = extractors or {}
        self.extractors = {
            modality: given.get(modality) or tower_kind(tower.kind).extractor(tower)
            for modality, tower in towers.items()
        }
        for tower in towers.values():
            _check_token(tokenizer, tower)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        audio: Any = None,
        videos: Any = None,
        *,
        padding: bool = True,
        add_special_tokens: bool = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """The model's inputs; shorter prompts are padded on the left.

        Args:
            text: one prompt, or several; each item's place is marked by its modality's placeholder.
            images: pictures in the order of their placeholders, prompt after prompt: files or PIL pictures.
            audio: sounds in the same order: files, waveforms (samples,) at the extractor's rate, or pairs of
                a waveform and its rate in Hz.
            videos: videos in the same order: files, or sequences of frames (PIL pictures or
                (height, width, 3) arrays).
            padding: whether to pad prompts to one length.
            add_special_tokens: whether the tokenizer adds its special tokens.
            return_tensors: `pt`, the only choice.

        Raises:
            InputError: placeholders and items don't match, an item can't be used, or no tower takes its
                modality.
        """
        if return_tensors != "pt":
            raise InputError("only PyTorch tensors can be made", got=return_tensors, expected="pt")
        texts = [text] if isinstance(text, str) else list(text)
        listed = {"image": _listed(images), "audio": _listed(audio), "video": _listed(videos)}
        items = {modality: each for modality, each in listed.items() if each}
        tokens = {modality: str(tower.token) for modality, tower in self.towers.items()}
        check_counts(texts, tokens, {modality: len(each) for modality, each in items.items()})
        media: dict[str, Any] = {}
        lengths: dict[str, list[int]] = {}
        for modality, each in items.items():
            media |= self._extract(modality, each, lengths)
        words = self.tokenizer(
            expand(texts, tokens, lengths),
            padding=padding and len(texts) > 1 and self._can_pad(),
            padding_side="left",
            add_special_tokens=add_special_tokens,
            return_tensors="pt",
        )
        ids = {name: words[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature({**ids, **media})

    def _can_pad(self) -> bool:
        """True; a tokenizer without a padding token gets its end-of-text token for that.

        Raises:
            InputError: the tokenizer has neither.
        """
        if self.tokenizer.pad_token is None:
            if self.tokenizer.eos_token is None:
                raise InputError(
                    "the tokenizer can't pad",
                    expected="pad_token or eos_token",
                    hint="set one, or ask one prompt at a time",
                )
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return True

    def _extract(self, modality: str, items: list[Any], lengths: dict[str, list[int]]) -> dict[str, Any]:
        """The model's inputs of one modality; `lengths` gets the number of embeddings of each item."""
        tower, extractor = self.towers[modality], self.extractors[modality]
        kind = tower_kind(tower.kind)
        found = kind.extract(extractor, [self._ready(modality, n, item) for n, item in enumerate(items)])
        lengths[modality] = kind.lengths(tower, found.mask, len(items))
        inputs = {VALUES[modality]: found.values}
        return inputs if found.mask is None else {**inputs, MASKS[modality]: found.mask}

    def _ready(self, modality: str, number: int, item: Any) -> Any:
        """The item as `TowerKind.extract` takes it."""
        where = item if isinstance(item, str | os.PathLike) else f"{modality} {number}"
        path = Path(item) if isinstance(item, str | os.PathLike) else None
        if modality == "image":
            return read_picture(path) if path else _picture(item, where)
        tower, extractor = self.towers[modality], self.extractors[modality]
        if modality == "video":
            frames = tower.frames or 1
            pictures = read_video(path, frames) if path else chosen(item, frames, where)
            return [_picture(each, where) for each in pictures]
        rate, seconds = extractor.sampling_rate, tower_kind(tower.kind).seconds
        longest = seconds(extractor) if seconds else None
        if path:
            return read_audio(path, rate, longest)
        wave, own = item if isinstance(item, tuple) else (item, rate)
        if own != rate:
            raise InputError(
                "the sound has another rate",
                where=where,
                got=f"{own} Hz",
                expected=f"{rate} Hz",
                hint="resample it, or give the file",
            )
        return heard(wave, rate, longest, where)

    def to_dict(self) -> dict[str, Any]:
        """Content of `processor_config.json`: the towers. Extractors have files of their own."""
        towers = {modality: tower.to_dict() for modality, tower in self.towers.items()}
        carried = {"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}
        return {"processor_class": type(self).__name__, "towers": towers, **carried}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:
        """Writes tokenizer, towers, the extractor of each tower in a folder of its own, and the code."""
        carry_code(self, save_directory)
        written: list[str] = super().save_pretrained(save_directory, **kwargs)
        for modality, extractor in self.extractors.items():
            extractor.save_pretrained(Path(save_directory) / FOLDER / modality)
        return written

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> OmniProcessor:
        """Loads the processor that `save_pretrained` wrote.

        Args:
            folder: a folder or a hub id.
            kwargs: transformers' options of loading: `local_files_only`, `revision`, `token`, …; code that a
                tokenizer needs is run with `trust_remote_code=True` alone.

        Raises:
            CheckpointError: the folder holds no omni processor.
        """
        kwargs.pop("_from_auto", None)
        trust = kwargs.pop("trust_remote_code", None) or False
        try:
            found, _ = cls.get_processor_dict(folder, **dict(kwargs))
            kwargs["trust_remote_code"] = trust
            towers = {modality: TowerConfig(**tower) for modality, tower in found["towers"].items()}
            tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
            raise CheckpointError(
                "no omni processor here",
                where=folder,
                got=problem,
                expected="processor_config.json with its towers, and a tokenizer",
                hint="give a folder that OmniProcessor.save_pretrained wrote",
            ) from problem
        if unknown := sorted(set(towers) - set(MODALITIES)):
            raise CheckpointError(
                "unknown modality", where=folder, got=unknown[0], expected=", ".join(MODALITIES)
            )
        extractors = {modality: _extractor(modality, folder, kwargs) for modality in towers}
        return cls(tokenizer, towers, extractors)

    @classmethod
    def from_config(cls, config: OmniConfig, tokenizer: Any) -> OmniProcessor:
        """The processor of a new model, with the extractors that suit its encoders."""
        return cls(tokenizer, config.towers)


def add_placeholders(tokenizer: Any, modalities: Sequence[str] = MODALITIES) -> dict[str, int]:
    """Adds the usual placeholders to a tokenizer that lacks them.

    Experts that are to be composed should be trained with one tokenizer that holds all placeholders.

    Returns:
        Modality → id of its placeholder.
    """
    tokenizer.add_tokens([USUAL[modality] for modality in modalities], special_tokens=True)
    return {m: int(tokenizer.convert_tokens_to_ids(USUAL[m])) for m in modalities}


def _check_token(tokenizer: Any, tower: TowerConfig) -> None:
    ids = tokenizer(tower.token, add_special_tokens=False)["input_ids"]
    if ids != [tower.token_id]:
        raise InputError(
            f"the tokenizer doesn't read {tower.token} as the tower's placeholder",
            got=f"ids {ids}",
            expected=f"token_id {tower.token_id}",
            hint="add it with optmerge.omni.add_placeholders, and give the tower its id",
        )


def _extractor(modality: str, folder: str | os.PathLike[str], options: Mapping[str, Any]) -> Any:
    auto = AutoFeatureExtractor if modality == "audio" else AutoImageProcessor
    try:
        return auto.from_pretrained(folder, subfolder=f"{FOLDER}/{modality}", **options)
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            f"the extractor of the {modality} tower can't be loaded",
            where=folder,
            got=problem,
            expected=f"{FOLDER}/{modality}/preprocessor_config.json",
        ) from problem


def _picture(item: Any, where: object) -> Any:
    """The item as a PIL picture in RGB.

    Raises:
        InputError: the item is neither a PIL picture nor an array that can be one.
    """
    from PIL import Image

    try:
        picture = item if isinstance(item, Image.Image) else Image.fromarray(np.asarray(item))
    except (TypeError, ValueError, KeyError):
        raise InputError(
            "not a picture",
            where=where,
            got=type(item).__name__,
            expected="a file, a PIL picture, or a (height, width, 3) array of bytes",
        ) from None
    return picture.convert("RGB")


def _listed(items: Any) -> list[Any]:
    """The items as a list; an item that comes alone becomes a list of one."""
    if items is None:
        return []
    return list(items) if isinstance(items, list) else [items]


AutoProcessor.register(OmniConfig, OmniProcessor, exist_ok=True)
