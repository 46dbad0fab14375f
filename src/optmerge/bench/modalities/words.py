"""The words of the benchmark's models: their tokenizer, and the form of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from optmerge.bench.lines.tiny.tokenizer import END, ROLES, START, build
from optmerge.bench.modalities import clips
from optmerge.bench.modalities.describe import texts
from optmerge.omni.prompts import USUAL

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CLIPS = 500


def tokenizer() -> Any:
    """Tokenizer of the clips' questions, answers and descriptions, with all three placeholders."""
    return build(tuple(USUAL.values()), TEMPLATE, {}, corpus=_corpus)


def opening(parts: Sequence[str]) -> str:
    """A prompt up to its question: placeholders and descriptions, one a line."""
    return f"{START}user\n" + "".join(f"{part}\n" for part in parts)


def asking(question: str) -> str:
    """The part of a prompt from the question to where the answer begins."""
    return f"{question}{END}\n{START}assistant\n"


def ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids, special tokens included."""
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _corpus() -> Iterator[str]:
    contents = [clips.content("train", index) for index in range(_CLIPS)]
    yield from texts(contents)
    for content in contents:
        for question in clips.asked(content):
            yield from (question.text, *question.choices)
    for role in ROLES:
        yield from [f"{role}\n"] * _CLIPS
