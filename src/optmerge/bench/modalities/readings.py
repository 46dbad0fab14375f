"""The first stage of a tower: linear probes learn to tell what each embedding is about.

Tower and probes are trained together; the probes are then thrown away. A clip has as many labels as
embeddings, far more than answers alone would give. The labels of an embedding are: in a picture, the thing in
its quarter; in a film, the actor in its lane and how the actor moves in the whole film; in a sound, who is
heard at that moment and how many notes the whole sound of that voice has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.models import extracted
from optmerge.bench.modalities.world import CAST, SLOTS, Actor, Content, Modality, Thing, Voice
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS
from optmerge.omni import OmniProcessor
from optmerge.omni.tower import Tower

UNASKED = -100
"""Label of a reading that an embedding isn't asked for; torch's cross entropy skips it."""
Labels = dict[str, int]
"""Reading → class."""
_PALETTE = tuple(COLOURS)
_MOVES = ("stays", "early", "late")

CLASSES: Mapping[Modality, Mapping[str, int]] = {
    "image": {"kind": len(KINDS), "colour": len(COLOURS), "big": 2, "number": CAST},
    "video": {"kind": len(KINDS), "colour": len(COLOURS), "moves": len(_MOVES), "right": 2, "far": 2},
    "audio": {"heard": 1 + len(KINDS) + CAST, "loud": 2, "high": 2, "notes": 3},
}
"""Modality → reading → number of classes."""


class Contents(Dataset[Content]):
    """The contents of the first `count` training clips of a seed."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Content:
        return clips.content("train", row, self.seed)


def signal(content: Content, modality: Modality) -> Any:
    """The signal of a clip in one modality, as the tower's feature extractor takes it."""
    if modality == "video":
        return [Image.fromarray(frame) for frame in clips.film(content)]
    return clips.picture(content) if modality == "image" else clips.sound(content)


def readings(content: Content, modality: Modality, shape: Sequence[int]) -> list[Labels]:
    """The labels of each embedding, in the embeddings' order.

    Args:
        content: content of the clip.
        modality: modality of the tower.
        shape: shape of the tower's embeddings: (rows, columns), (times, rows, columns), or (times,).
    """
    return _READ[modality](content, shape)


def _of_picture(content: Content, shape: Sequence[int]) -> list[Labels]:
    rows, columns = shape
    return [
        _thing(content.picture[2 * (2 * row // rows) + 2 * column // columns])
        for row in range(rows)
        for column in range(columns)
    ]


def _thing(thing: Thing) -> Labels:
    return {
        "kind": KINDS.index(thing.kind),
        "colour": _PALETTE.index(thing.colour),
        "big": int(thing.big),
        "number": thing.number - 1,
    }


def _of_film(content: Content, shape: Sequence[int]) -> list[Labels]:
    times, rows, columns = shape
    lanes = [_actor(content.film[CAST * row // rows]) for row in range(rows) for _ in range(columns)]
    return lanes * times


def _actor(actor: Actor) -> Labels:
    motion = actor.motion
    return {
        "kind": KINDS.index(actor.kind),
        "colour": _PALETTE.index(actor.colour),
        "moves": 0 if motion is None else 1 + motion.late,
        "right": UNASKED if motion is None else int(motion.right),
        "far": UNASKED if motion is None else int(motion.far),
    }


def _of_sound(content: Content, shape: Sequence[int]) -> list[Labels]:
    (times,) = shape
    slots: list[Labels] = [_voice(None)] * SLOTS
    for voice in content.sound.voices:
        slots[voice.slot : voice.slot + voice.notes] = [_voice(voice)] * voice.notes
    spoken = {**_voice(None), "heard": len(KINDS) + content.sound.number}
    slots[content.sound.slot : content.sound.slot + 2] = [spoken] * 2
    return [slots[math.floor((time + 0.5) * SLOTS / times)] for time in range(times)]


def _voice(voice: Voice | None) -> Labels:
    if voice is None:
        return {"heard": 0, "loud": UNASKED, "high": UNASKED, "notes": UNASKED}
    return {
        "heard": 1 + KINDS.index(voice.kind),
        "loud": int(voice.loud),
        "high": int(voice.high),
        "notes": voice.notes - 1,
    }


_READ: Mapping[Modality, Callable[[Content, Sequence[int]], list[Labels]]] = {
    "image": _of_picture,
    "video": _of_film,
    "audio": _of_sound,
}


@dataclass(frozen=True)
class Readings:
    """Contents → the tower's inputs and the labels of each reading.

    Args:
        processor: processor with the tower's configuration.
        modality: modality of the tower.
    """

    processor: OmniProcessor
    modality: Modality

    def __call__(self, contents: Sequence[Content]) -> dict[str, Any]:
        """`values`: the tower's inputs; `known`: reading → labels (clip, embedding)."""
        shape = self.processor.towers[self.modality].pooled
        labelled = [readings(content, self.modality, shape) for content in contents]
        known = {
            name: torch.tensor([[labels[name] for labels in each] for each in labelled])
            for name in CLASSES[self.modality]
        }
        items = [signal(content, self.modality) for content in contents]
        return {"values": extracted(self.processor, self.modality, items), "known": known}


class TowerProbe(nn.Module):
    """A tower with linear probes of its embeddings; all of it is trained.

    Args:
        tower: the tower.
        modality: modality of the tower.
        width: width of its embeddings.
    """

    def __init__(self, tower: Tower, modality: Modality, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, classes) for name, classes in CLASSES[modality].items()}
        )

    def forward(self, values: Tensor, known: Mapping[str, Tensor]) -> dict[str, Any]:
        """The loss, and for each reading the share of labels that are predicted right.

        Args:
            values: the tower's inputs.
            known: reading → labels (clip, embedding).
        """
        embeddings = self.norm(self.tower(values))
        logits = {name: head(embeddings).float() for name, head in self.heads.items()}
        labels = {name: known[name].flatten() for name in logits}
        loss = sum(cross_entropy(logits[name], labels[name]) for name in logits)
        return {"loss": loss, "right": {name: _right(logits[name], labels[name]) for name in logits}}

    def set_attn_implementation(self, name: str) -> None:
        """Choose the encoder's attention function, as transformers' models do."""
        self.tower.encoder.set_attn_implementation(name)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    asked = labels != UNASKED
    return (logits.argmax(-1) == labels)[asked].float().mean()
