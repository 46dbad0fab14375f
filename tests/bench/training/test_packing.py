from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.training import conversations, packing

LINES = ("full", "lora")
TALKS = [conversations.conversation(conversations.mixture(), 0, row) for row in range(8)]


def alone(model: Any, processor: Any, talk: Any, question: Any) -> torch.Tensor:
    """Loss, summed over its tokens, of one answer in a chat of its own."""
    inputs = processor.inputs([question.text], [talk.image])
    told = torch.tensor([processor.ids(question.answers[0] + "<|im_end|>")])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], told], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.piece).int()
    logits = model(**inputs).logits[0, -told.shape[1] - 1 : -1]
    return cross_entropy(logits, told[0], reduction="sum")


@pytest.mark.parametrize("line", LINES)
def test_a_packed_turn_is_learnt_as_if_it_were_asked_alone(
    line: str, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    model = tiny_models.build(processors[line], tiny, seed=0).eval()
    batch = packing.ConversationBatch(processors[line])(TALKS)
    labels = batch.pop("labels")
    assert len(labels) < len(TALKS)  # rows are shared
    with torch.no_grad():
        separate = sum(alone(model, processors[line], talk, turn) for talk in TALKS for turn in talk.turns)
        model.set_attn_implementation("eager")
        logits = model(**batch, use_cache=False).logits
        packed = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert packed.item() == pytest.approx(separate.item(), rel=1e-5)


@pytest.mark.parametrize("line", LINES)
def test_exactly_the_answers_and_their_ends_are_learnt(
    line: str, processors: Mapping[str, Processor]
) -> None:
    batch = packing.ConversationBatch(processors[line])(TALKS)
    learnt = batch["labels"] != packing.IGNORED
    assert torch.equal(batch["labels"][learnt], batch["input_ids"][learnt])
    told = processors[line].tokenizer.decode(batch["labels"][learnt]).split("<|im_end|>")[:-1]
    assert sorted(told) == sorted(turn.answers[0] for talk in TALKS for turn in talk.turns)


@pytest.mark.parametrize("line", LINES)
def test_an_answer_weighs_the_square_root_of_its_tokens(
    line: str, processors: Mapping[str, Processor]
) -> None:
    batch = packing.ConversationBatch(processors[line])(TALKS)
    assert torch.equal(batch["weights"] > 0, batch["labels"] != packing.IGNORED)
    answers = [turn.answers[0] + "<|im_end|>" for talk in TALKS for turn in talk.turns]
    expected = sum(len(processors[line].ids(answer)) ** 0.5 for answer in answers)
    assert batch["weights"].sum().item() == pytest.approx(expected, rel=1e-5)


def test_turns_that_would_make_a_conversation_too_long_are_left_out(
    processors: Mapping[str, Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, talk = processors["full"], max(TALKS, key=lambda talk: len(talk.turns))
    whole = packing.ConversationBatch(processor).piece(talk)
    monkeypatch.setattr(packing, "LONGEST", len(whole.ids) - 1)
    part = packing.ConversationBatch(processor).piece(talk)
    assert len(part.ids) <= packing.LONGEST and 0 < len(set(part.turns)) < len(set(whole.turns))
    monkeypatch.setattr(packing, "LONGEST", 0)
    assert set(packing.ConversationBatch(processor).piece(talk).turns) == {0, 1}  # the first is always there


@pytest.mark.parametrize("line", LINES)
def test_pictures_follow_each_other_as_their_tokens_do(
    line: str, processors: Mapping[str, Processor]
) -> None:
    processor = processors[line]
    batch = packing.ConversationBatch(processor)(TALKS)
    order = packing.rows([len(packing.ConversationBatch(processor).piece(talk).ids) for talk in TALKS])
    expected = processor.pixels([TALKS[rank].image for row in order for rank in row])
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    for row, ranks in zip(batch["input_ids"], order, strict=True):
        start = 0
        for rank in ranks:
            ids = packing.ConversationBatch(processor).piece(TALKS[rank]).ids
            assert row[start : start + len(ids)].tolist() == ids
            start += len(ids)


def test_rows_hold_each_piece_once_and_none_is_longer_than_the_longest_piece() -> None:
    lengths = [5, 9, 3, 3, 4, 9, 1]
    found = packing.rows(lengths)
    assert sorted(rank for row in found for rank in row) == list(range(len(lengths)))
    assert all(sum(lengths[rank] for rank in row) <= 9 for row in found) and len(found) == 4
