"""Ask an omni model about pictures, sound and video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optmerge.errors import CheckpointError, InputError
from optmerge.evaluate import chat
from optmerge.evaluate.answering import CHAT_TOKENS
from optmerge.evaluate.question_files import FileQuestion
from optmerge.omni.processor import OmniProcessor  # which makes the model known to the Auto classes

Items = Mapping[str, Sequence[Any]]
"""Modality → items: files, or anything else that `OmniProcessor` takes."""


def load(ref: str | Path, *, device: str = "cpu") -> chat.Chat:
    """An omni model to be asked, in the precision it was saved in.

    Args:
        ref: folder or hub id of an omni checkpoint, or of an adapter of one.
        device: where it answers.

    Raises:
        CheckpointError: transformers can load no model there.
        InputError: the model is no omni model.
    """
    found = chat.load(ref, device=device)
    if not isinstance(found.processor, OmniProcessor):
        raise InputError(
            "not an omni model",
            where=ref,
            got=type(found.model).__name__,
            hint="ask it with `optmerge ask`, or make an expert of it with `optmerge omni import`",
        )
    return found


def answer(asked: chat.Chat, question: str, items: Items, *, longest: int = CHAT_TOKENS) -> str:
    """The answer, decoded greedily.

    Args:
        asked: model and processor, from `load`.
        question: text with placeholders where the items belong; without placeholders, items go before it.
        items: items of each modality, in the order of their placeholders.
        longest: tokens at which an answer is cut off.

    Raises:
        InputError: placeholders and items don't match, or an item can't be used.
        CheckpointError: the chat template leaves out the question or an item.
    """
    return asked.answers([inputs(asked, question, items)], longest=longest)[0]


def inputs(asked: chat.Chat, question: str, items: Items) -> Mapping[str, Any]:
    """What the model takes for one question: its tensors, of one row, on the CPU.

    Args:
        asked: model and processor, from `load`.
        question: as in `answer`.
        items: as in `answer`.

    Raises:
        InputError: placeholders and items don't match, or an item can't be used.
        CheckpointError: the chat template leaves out the question or an item.
    """
    processor = asked.processor
    text, chatted = prompt(processor, question, {m: len(each) for m, each in items.items() if each})
    made: Mapping[str, Any] = processor(
        text,
        images=list(items.get("image", ())),
        audio=list(items.get("audio", ())),
        videos=list(items.get("video", ())),
        add_special_tokens=not chatted,
    )
    return made


def show(asked: chat.Chat, question: FileQuestion) -> Mapping[str, Any]:
    """What a model takes for a question of a file: a `Show` for omni models, and for all others.

    Raises:
        InputError: the model can't take what the question is about.
    """
    if not isinstance(asked.processor, OmniProcessor):
        return chat.show(asked, question)
    return inputs(asked, question.text, question.media)


def prompt(processor: OmniProcessor, question: str, counts: Mapping[str, int]) -> tuple[str, bool]:
    """The prompt of a question, and whether a chat template made it.

    Args:
        processor: processor of the model.
        question: text with or without placeholders.
        counts: modality → number of items.

    Raises:
        CheckpointError: the template holds the question and its items in no form.
        InputError: the model has no tower for a modality.
    """
    tokens = {modality: str(tower.token) for modality, tower in processor.towers.items()}
    placed = any(token in question for token in tokens.values())
    shown = [modality for modality, count in counts.items() for _ in range(0 if placed else count)]
    unknown = [modality for modality in shown if modality not in tokens]
    if unknown:
        raise InputError(f"the model takes no {unknown[0]}", expected=", ".join(tokens) or "text alone")
    text = "\n".join([*(tokens[modality] for modality in shown), question])
    template = processor.chat_template
    if template is None:
        return text, False
    asked = {"type": "text", "text": question}
    # Templates of multimodal models take a list of parts, those of language models a text. Where a template
    # has no part for a modality, its placeholder is written out in the text.
    forms: list[Any] = [text, [{"type": "text", "text": text}]]
    if shown:
        forms = [[*({"type": modality} for modality in shown), asked], *forms]
    for content in forms:
        turn = {"role": "user", "content": content}
        try:
            found: str = processor.tokenizer.apply_chat_template(
                [turn], chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except Exception:  # a template is a program, and may raise anything
            continue
        if question in found and all(found.count(tokens[m]) == shown.count(m) for m in shown):
            return found, True
    raise CheckpointError(
        "the chat template doesn't hold the question and its items",
        where="chat_template.jinja",
        expected="a template that shows the user's text",
    )
