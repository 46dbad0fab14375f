from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from optmerge.bench.modalities import models, talks, words
from optmerge.bench.modalities.describe import CAPTIONS, CLOSEUP, NAMES
from optmerge.bench.modalities.talk_batches import LONGEST, TalkBatch
from optmerge.bench.modalities.talks import TalkCurriculum, talk
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.training import attention
from optmerge.bench.training.packing import IGNORED
from optmerge.omni.prompts import USUAL
from worlds import modalities as small

BASE, HEARING = TalkCurriculum(guesses=0), TalkCurriculum(own="audio", guesses=0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return words.tokenizer()


def told(parts: tuple[str, ...]) -> set[str]:
    return {each for each in MODALITIES if any(part.startswith(f"{NAMES[each]}: ") for part in parts)}


def needs(question: Any) -> set[str]:
    return set(getattr(question, "needs", ()))


def test_a_base_is_told_everything_in_words_and_asked_what_it_can_know() -> None:
    seen = set()
    for row in range(300):
        one = talk(BASE, 0, row)
        assert one.shown is None and not any(token in "".join(one.parts) for token in USUAL.values())
        assert told(one.parts) and all(needs(each) <= told(one.parts) for each in one.turns)
        seen.add(tuple(sorted(told(one.parts))))
    assert len(seen) == 7


def test_an_expert_has_its_own_signal_and_no_other() -> None:
    alone = 0
    for row in range(300):
        one = talk(HEARING, 0, row)
        assert one.parts.count("<audio>") == 1 and not {"<image>", "<video>"} & set(one.parts)
        assert "audio" not in told(one.parts)
        known = told(one.parts) | {"audio"}
        for each in one.turns:
            about_sound = each.text == CAPTIONS["audio"] or (each.type == CLOSEUP and "sound" in each.text)
            loudness = each.type == CLOSEUP and each.answers[0] in ("loud", "soft", "high", "low")
            assert about_sound or loudness or "audio" in needs(each) <= known
        alone += one.parts == ("<audio>",)
    assert 100 < alone < 200


def test_guessing_is_learnt_in_some_talks() -> None:
    guessed = [talk(TalkCurriculum(), 0, row) for row in range(400)]
    without = [each for each in guessed if any(not needs(turn) <= told(each.parts) for turn in each.turns)]
    assert 10 < len(without) < 100


def test_a_talk_depends_on_its_number_alone() -> None:
    assert [talk(TalkCurriculum(), 3, row) for row in (5, 6)] == [
        talks.Talks(TalkCurriculum(), 9, seed=3)[row] for row in (5, 6)
    ]
    assert talk(TalkCurriculum(), 3, 5) != talk(TalkCurriculum(), 4, 5)


def test_exactly_the_answers_and_their_ends_are_learnt(tokenizer: Any) -> None:
    one = talk(BASE, 0, 1)
    one = talks.Talk(one.content, one.parts, one.shown, one.turns[:6])  # as many as surely fit
    batch = TalkBatch(tokenizer)([one])
    learnt = batch["labels"][0] != IGNORED
    text = tokenizer.decode(batch["input_ids"][0][learnt])
    answers = [f"{each.answers[0]}<|im_end|>" for each in one.turns]
    assert text == "".join(answers) and batch["input_ids"].shape[1] <= LONGEST


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_packed_turn_is_learnt_as_if_it_were_asked_alone(modality: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = models.tower_config(modality, small.SIZE, tokenizer)
    model = models.joined(
        models.language(small.SIZE, tokenizer, seed=0),
        {modality: models.tower(config, small.SIZE, seed=0)},
    ).eval()
    from optmerge.omni import OmniProcessor

    pack = TalkBatch(tokenizer, OmniProcessor(tokenizer, {modality: config}))
    both = [talk(TalkCurriculum(own=modality), 0, row) for row in (0, 1)]
    model.set_attn_implementation(attention.register())
    with torch.no_grad():
        packed = pack(both)
        logits = model(**packed).logits
    learnt = packed["labels"] != IGNORED
    one, turn = both[1], both[1].turns[1]
    model.set_attn_implementation("sdpa")
    alone = pack([talks.Talk(one.content, one.parts, one.shown, (turn,))])
    with torch.no_grad():
        expected = model(
            **{key: alone[key] for key in alone if key not in ("labels", "attention_mask")}
        ).logits
    count = int((alone["labels"] != IGNORED).sum())
    wanted = expected[0, -count - 1 : -1]
    candidates = logits[:, :-1][learnt[:, 1:]]
    windows = candidates.unfold(0, count, 1).movedim(-1, 1)
    assert min(float((window - wanted).abs().max()) for window in windows) < 1e-3


def test_nothing_is_described_in_an_order_of_its_own() -> None:
    content = talk(BASE, 0, 0).content
    several = {talks.parts(content, ["image"], None, random.Random(seed)) for seed in range(9)}
    assert len(several) > 1


def test_an_answer_weighs_the_square_root_of_its_tokens(tokenizer: Any) -> None:
    rows = (talk(BASE, 0, row) for row in range(50))
    one = next(each for each in rows if each.turns[0].text in CAPTIONS.values())
    batch = TalkBatch(tokenizer)([talks.Talk(one.content, one.parts, one.shown, one.turns[:1])])
    tokens = int((batch["labels"] != IGNORED).sum())
    assert tokens > 10
    assert float(batch["weights"].sum()) == pytest.approx(tokens**0.5)
    assert bool(((batch["weights"] > 0) == (batch["labels"] != IGNORED)).all())
