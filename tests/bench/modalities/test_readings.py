from __future__ import annotations

from typing import Any

import pytest
import torch

from optmerge.bench.modalities import clips, models, words
from optmerge.bench.modalities.readings import CLASSES, UNASKED, Readings, TowerProbe, readings
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS
from optmerge.omni import OmniProcessor
from worlds import modalities as small


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return words.tokenizer()


def test_a_picture_is_read_by_quarters() -> None:
    content = clips.content("train", 0)
    found = readings(content, "image", (4, 4))
    for place, thing in enumerate(content.picture):
        for row in (0, 1):
            for column in (0, 1):
                labels = found[4 * (2 * (place // 2) + row) + 2 * (place % 2) + column]
                assert labels["kind"] == KINDS.index(thing.kind) and labels["number"] == thing.number - 1
                assert labels["big"] == thing.big and list(COLOURS)[labels["colour"]] == thing.colour


def test_a_film_is_read_by_lanes_at_all_times() -> None:
    content = clips.content("train", 1)
    found = readings(content, "video", (2, 8, 3))
    for place, labels in enumerate(found):
        actor = content.film[place // 3 % 8 // 2]
        assert labels["kind"] == KINDS.index(actor.kind)
        assert (labels["moves"] == 0) is (actor.motion is None) is (labels["far"] == UNASKED)
        if actor.motion:
            assert labels["right"] == actor.motion.right and labels["moves"] == 1 + actor.motion.late


def test_a_sound_is_read_by_moments() -> None:
    for index in range(20):
        content = clips.content("train", index)
        found = readings(content, "audio", (20,))
        for voice in content.sound.voices:
            for labels in found[2 * voice.slot : 2 * (voice.slot + voice.notes)]:
                assert labels == {
                    "heard": 1 + KINDS.index(voice.kind),
                    "loud": voice.loud,
                    "high": voice.high,
                    "notes": voice.notes - 1,
                }
        notes = sum(voice.notes for voice in content.sound.voices)
        assert sum(labels["heard"] == 0 for labels in found) == 20 - 2 * (notes + 2)
        assert sum(labels["heard"] == len(KINDS) + content.sound.number for labels in found) == 4


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_tower_learns_what_a_few_clips_show(modality: Any, tokenizer: Any) -> None:
    config = models.tower_config(modality, small.SIZE, tokenizer)
    reader = TowerProbe(models.tower(config, small.SIZE, seed=0), modality, small.SIZE.width)
    batch = Readings(OmniProcessor(tokenizer, {modality: config}), modality)(
        [clips.content("train", index) for index in range(2)]
    )
    assert batch["known"].keys() == CLASSES[modality].keys()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=5e-3)
    for _ in range(200):
        optimiser.zero_grad()
        found = reader(**batch)
        found["loss"].backward()
        optimiser.step()
        if all(share > 0.95 for share in found["right"].values()):
            return
    # At 28 pixels a patch every embedding lies in one quarter or lane, so all of it can be learnt by heart.
    pytest.fail(f"not learnt: {found['right']}")
