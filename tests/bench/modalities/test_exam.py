from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from optmerge.bench.lines.tiny.tokenizer import END
from optmerge.bench.modalities import clips, exam, models, words
from optmerge.bench.modalities.readings import signal
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.world import MODALITIES
from optmerge.evaluate.answering import WORKED_TOKENS
from optmerge.omni.ask import answer as asked_answer
from optmerge.omni.ask import load
from optmerge.omni.compose import compose
from worlds.samples import examples


@pytest.mark.parametrize("needs", NEEDS)
def test_each_question_is_about_another_clip_and_families_take_turns(needs: Any) -> None:
    items = exam.items("test", needs, 40)
    assert len({item.index for item in items}) == 40
    kinds = exam.families(needs)
    assert [item.question.family for item in items] == [kinds[turn % len(kinds)] for turn in range(40)]
    assert all(item.question.needs == needs for item in items)
    assert exam.items("test", needs, 20) == items[:20]


@pytest.mark.sampled
def test_right_answers_are_spread_over_the_choices() -> None:
    for needs in NEEDS:
        places = Counter(
            (item.question.type, item.question.choices.index(item.question.answers[0]))
            for item in exam.items("test", needs, examples(few=80, many=400))
            if item.question.choices == ("yes", "no")
        )
        for name in {name for name, _ in places}:
            yes, no = places[name, 0], places[name, 1]
            assert abs(yes - no) < 4 * (yes + no) ** 0.5


def test_the_right_answer_scores_one_and_any_other_none() -> None:
    for item in exam.items("test", ("audio", "image"), 20):
        right = item.question.answers[0]
        assert exam.score(f" {right.capitalize()}.", item.question) == 1
        assert all(exam.score(each, item.question) == 0 for each in item.question.choices if each != right)
        assert exam.score("", item.question) == 0


def test_steps_on_the_way_dont_count() -> None:
    for item in exam.items("test", ("audio", "video", "image"), 20):
        question = item.question
        (worked,) = question.worked.answers
        assert worked == f"{', '.join(question.steps)}: {question.answers[0]}"
        assert exam.score(worked, question) == exam.score(f"ring: {question.answers[0]}", question) == 1
        assert exam.score(f"{worked}: neither", question) == 0


@pytest.mark.sampled
@pytest.mark.parametrize("needs", NEEDS)
def test_every_right_answer_fits(needs: Any) -> None:
    tokenizer = words.tokenizer()
    for item in exam.items("test", needs, examples(few=40, many=200)):
        worked = item.question.worked.answers[0]
        assert len(words.ids(tokenizer, worked + END)) <= WORKED_TOKENS


def test_prompts_hold_just_what_is_given_and_told() -> None:
    item = exam.items("test", ("audio",), 1)[0]
    assert "<audio>\n<image>\n" in exam.prompt("test", item, ("image", "audio")).opening
    told = exam.prompt("test", item, ("audio",), described=("video",)).opening
    assert "<audio>\nvideo: " in told and "<image>" not in told and "picture: " not in told
    alone = exam.prompt("test", item, ())
    assert alone.opening == "<|im_start|>user\n" and alone.question.startswith(item.question.text)


@pytest.mark.parametrize("method", ["naivemc", pytest.param("damc", marks=pytest.mark.slow)])
def test_embeddings_that_are_kept_give_the_answers_that_signals_give(
    trained: Any, tmp_path: Path, method: str
) -> None:
    zoo, _ = trained
    experts = [{"model": str(zoo / each), "name": each} for each in MODALITIES]
    recipe = {"base": str(zoo / "base"), "experts": experts, "method": method}
    compose(recipe, tmp_path / "merged", towers={each: each for each in MODALITIES})
    # Two sets of questions about the same clips: what is read of a clip is used more than once.
    items = [*exam.items("test", ("audio", "video", "image"), 2), *exam.items("test", ("audio",), 2)]
    assert len({item.index for item in items}) < len(items)
    chat = load(tmp_path / "merged")
    chat.model.float()
    expected = []
    for item in items:
        content = clips.content("test", item.index)
        given = {each: [signal(content, each)] for each in MODALITIES}
        text = "<audio>\n<video>\n<image>\n" + item.question.text
        written = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        asked = exam.prompt("test", item, MODALITIES)
        assert written == asked.opening + asked.question
        with torch.inference_mode():
            inputs = chat.processor(
                written, images=given["image"], audio=given["audio"], videos=given["video"]
            )
            out = chat.model.generate(**inputs, do_sample=False, max_new_tokens=WORKED_TOKENS)
        told = out[0, inputs["input_ids"].shape[1] :]
        expected.append(chat.processor.tokenizer.decode(told, skip_special_tokens=True).strip())
        assert asked_answer(chat, text, given, longest=WORKED_TOKENS) == expected[-1]
    model, processor = models.load(tmp_path / "merged")
    senses, indexes = exam.SignalCache(), [item.index for item in items]
    seen = {each: senses.of(model, processor, each, "test", indexes, each) for each in MODALITIES}
    said = exam.answer(
        exam.without_towers(model),
        processor,
        [exam.prompt("test", item, MODALITIES) for item in items],
        seen,
    )
    assert said == expected and any(said)
