"""The content of a demo page as plain data, and the choice of its questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optmerge.bench.modalities import clips, exam
from optmerge.bench.modalities.clips import Clip
from optmerge.bench.modalities.exam import Needs
from optmerge.bench.modalities.templates import NEEDS, ClipQuestion
from optmerge.bench.modalities.world import Content

CLIP = 3
"""A test clip with a question for every combination of modalities, of which the merge of the shipped experts
gets two thirds right, as of the whole test: neither its best clip nor its worst."""


@dataclass(frozen=True)
class Speaker:
    """A model that answers.

    Args:
        name: as the page calls it.
        takes: the modalities that it is given.
    """

    name: str
    takes: Needs


@dataclass(frozen=True)
class Exchange:
    """A question and the answers.

    Args:
        question: about the clip.
        said: by each speaker, in their order.
    """

    question: ClipQuestion
    said: tuple[str, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each answer is right."""
        return tuple(exam.score(words, self.question) == 1 for words in self.said)


@dataclass(frozen=True)
class Story:
    """One clip, and the models' answers about it.

    Args:
        number: of the clip in the test split.
        content: of the clip.
        clip: as it is seen and heard.
        method: that merged the experts.
        scale: of the merge; None where the method has none.
        seconds: that the composition took.
        merged: folder of the merged model, from the page's own.
        speakers: the experts, last the merged model.
        exchanges: in the order of `NEEDS`.
        weights: folder → SHA-256 of its weights.
        versions: library → version.
    """

    number: int
    content: Content
    clip: Clip
    method: str
    scale: float | None
    seconds: float
    merged: str
    speakers: tuple[Speaker, ...]
    exchanges: tuple[Exchange, ...]
    weights: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def right(self) -> tuple[int, ...]:
        """Right answers of each speaker."""
        return tuple(map(sum, zip(*(each.right for each in self.exchanges), strict=True)))


def questions(content: Content) -> tuple[ClipQuestion, ...]:
    """For each combination of modalities the question that a guess is least likely to get right.

    Of equals the first of a family that isn't asked yet. The choice doesn't depend on any model.
    """
    asked, chosen = clips.asked(content), list[ClipQuestion]()
    for needs in NEEDS:
        fit = [each for each in asked if each.needs == needs]
        known = {each.family for each in chosen}
        chosen += sorted(fit, key=lambda each: (each.chance, each.family in known))[:1]
    return tuple(chosen)
