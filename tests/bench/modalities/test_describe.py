from __future__ import annotations

import random
from typing import Any

import pytest

from optmerge.bench.lines.tiny.tokenizer import END
from optmerge.bench.modalities import clips, words
from optmerge.bench.modalities.describe import caption, closeups, described
from optmerge.bench.modalities.world import MODALITIES
from worlds.samples import examples


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return words.tokenizer()


@pytest.mark.sampled
@pytest.mark.parametrize("modality", MODALITIES)
def test_parts_that_differ_are_described_differently(modality: str) -> None:
    """So nothing that a question could be about is left out."""
    found: dict[str, object] = {}
    for index in range(examples(few=1000, many=3000)):
        content = clips.content("train", index)
        part: Any = {"audio": content.sound, "video": content.film, "image": content.picture}[modality]
        text = described(content, modality)
        if modality == "audio":  # exact slots are heard, but never asked for
            part = [(v.kind, v.notes, v.loud, v.high, v.half, v.slot < part.slot) for v in part.voices]
        assert found.setdefault(text, part) == part


def test_order_of_what_lies_beside_each_other_is_free_and_of_what_is_heard_is_not() -> None:
    content = clips.content("train", 1)
    for modality in MODALITIES:
        several = {described(content, modality, random.Random(seed)) for seed in range(20)}
        name, _, facts = described(content, modality).partition(": ")
        assert (len(several) == 1) is (modality == "audio")
        for text in several:
            assert text.startswith(f"{name}: ")
            assert sorted(text.partition(": ")[2].split(", ")) == sorted(facts.split(", "))


def test_a_caption_answers_with_the_description() -> None:
    content = clips.content("train", 2)
    for modality in MODALITIES:
        question = caption(content, modality)
        assert question.answers == (described(content, modality),) and question.text.endswith("?")


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_closeup_is_answered_by_what_is_described_of_one_shape(modality: str) -> None:
    asked = set()
    for index in range(60):
        content = clips.content("train", index)
        facts = described(content, modality).partition(": ")[2].split(", ")
        found = closeups(content, modality, random.Random(index))
        wholes, lookups = found[::2], found[1::2]
        answers = {each.answers[0] for each in wholes}
        assert answers == {each for each in facts if not each.startswith("number")}
        for whole, lookup in zip(wholes, lookups, strict=True):
            assert lookup.answers[0] in whole.answers[0].split()
            asked.add(" ".join(lookup.text.split()[:3]))
    assert len(asked) >= 2


@pytest.mark.sampled
def test_every_word_of_questions_and_descriptions_is_one_token(tokenizer: Any) -> None:
    for index in range(1000, 1000 + examples(few=50, many=200)):
        content = clips.content("test", index)
        texts = [described(content, modality) for modality in MODALITIES]
        near = [each for m in MODALITIES for each in closeups(content, m, random.Random(index))]
        texts += [text for each in near for text in (each.text, *each.answers)]
        texts += [text for each in clips.asked(content) for text in (each.text, *each.choices)]
        for text in texts:
            pieces = text.replace(",", " ,").replace(":", " :").replace("?", " ?").split()
            assert len(words.ids(tokenizer, text)) == len(pieces), text
            assert tokenizer.decode(words.ids(tokenizer, text)) == text


def test_a_prompt_is_what_the_chat_template_makes_of_it(tokenizer: Any) -> None:
    parts, question = ["<audio>", "video: top red ring stays"], "how many shapes move in the video?"
    content = "\n".join([*parts, question])
    made = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert made == words.opening(parts) + words.asking(question)
    whole = words.ids(tokenizer, made)
    assert whole == words.ids(tokenizer, words.opening(parts)) + words.ids(tokenizer, words.asking(question))
    assert whole.count(tokenizer.convert_tokens_to_ids("<audio>")) == 1 and END in made
