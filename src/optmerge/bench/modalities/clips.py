"""Clips by number: what is seen, heard and asked depends on version, split, seed and index alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from optmerge.bench.modalities import sights, sounds
from optmerge.bench.modalities.templates import ClipQuestion, questions
from optmerge.bench.modalities.world import Content, plan
from optmerge.bench.tasks import Split
from optmerge.omni.media import Wave

VERSION = 1
"""Changes whenever any clip or question does."""


@dataclass(frozen=True)
class Clip:
    """Inputs of a model, and the questions about them.

    Args:
        frames: uint8, `sights.FRAMES`×`SIDE`×`SIDE`×3, four a second.
        picture: RGB, `SIDE`×`SIDE`; another view of the same cast.
        waveform: float32, `sounds.SECONDS` at `sounds.RATE`, between -1 and 1; begins with the film.
        questions: at most one of each family and set of modalities.
    """

    frames: NDArray[np.uint8]
    picture: Image.Image
    waveform: Wave
    questions: tuple[ClipQuestion, ...]


def content(split: Split, index: int, seed: int = 0) -> Content:
    """Content of clip number `index` of a split."""
    return plan(random.Random(f"omni/{VERSION}/{split}/{seed}/{index}"), split)


def asked(content: Content) -> tuple[ClipQuestion, ...]:
    """The questions about a content."""
    return questions(random.Random(content.seed), content)


def make(content: Content) -> Clip:
    """The clip with that content; the same content gives the same clip."""
    return Clip(film(content), picture(content), sound(content), asked(content))


def film(content: Content) -> NDArray[np.uint8]:
    """The frames of a clip alone."""
    return sights.frames(random.Random(f"film/{content.seed}"), content.film)


def picture(content: Content) -> Image.Image:
    """The picture of a clip alone."""
    return sights.picture(random.Random(f"picture/{content.seed}"), content.picture)


def sound(content: Content) -> Wave:
    """The waveform of a clip alone."""
    return sounds.waveform(random.Random(f"sound/{content.seed}"), content.sound)


def clip(split: Split, index: int, seed: int = 0) -> Clip:
    """Clip number `index` of a split."""
    return make(content(split, index, seed))
