"""The lines' tokenizer: byte-level, with the tasks' words and pairs of digits as tokens.

* a lower-case word is one piece with its leading space, joined by merges learnt from the tasks' own texts;
* a capital letter is always a token of its own, since capitals quote what is printed in a picture;
* digits go two by two from the left (`213` is `21`, `3`), so each coordinate of a box is one token;
* any other character is a token of its own, or the tokens of its bytes: no text is unknown.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from string import ascii_uppercase, digits, punctuation
from typing import Any

from optmerge.bench.tasks import drawn
from optmerge.bench.tasks.drawn._drawing.sheets import captions, sheet

START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT = (STOP, START, END)
ROLES = ("system", "user", "assistant")
PIECES = r" ?[0-9]{1,2}| ?[a-z]+| ?[!-~]|[\s\S]"
"""What is encoded on its own; a match can't go over its end, and together they cover every text."""
_WORDS = 700  # merges at most; the tasks' texts have fewer


def build(
    special: Sequence[str],
    template: str,
    extra: Mapping[str, str],
    corpus: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A `PreTrainedTokenizerFast` of the tasks' texts; the same tasks give the same tokenizer.

    Args:
        special: tokens of the model family besides the chat's own, in the order of their ids.
        template: the family's chat template (Jinja).
        extra: attribute → token, as the family's processor asks for them (`image_token`, …).
        corpus: other texts than the tasks'.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(_learnt(corpus or texts))
    core.add_special_tokens([*CHAT, *special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=STOP,
        eos_token=END,
        padding_side="left",
        chat_template=template,
        extra_special_tokens=dict(extra),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def texts(scenes: int = 1000) -> Iterator[str]:
    """Every text of each task's first training scenes, of as many sheets, and the chat's roles."""
    for index in range(scenes):
        rng = random.Random(index)
        for caption in captions(rng, sheet(rng)[1]):
            yield caption.text
            yield from caption.answers
    for task in drawn().values():
        for index in range(scenes):
            scene = task.scene("train", index)
            for question in (*scene.captions, *scene.questions):
                yield question.text
                yield from question.answers
    for role in ROLES:
        yield from [f"{role}\n"] * scenes


@cache
def _learnt(corpus: Callable[[], Iterable[str]]) -> str:
    """What `learn` makes of the texts, as JSON; takes seconds, so once is enough."""
    text: str = learn(corpus()).to_str()
    return text


def learn(corpus: Iterable[str]) -> Any:
    """Byte-pair encoding: merges learnt from the lower-case words, then those of numbers and signs."""
    from tokenizers import Tokenizer, models

    tokenizer = _piecewise(Tokenizer(models.BPE()))
    tokenizer.train_from_iterator(corpus, _trainer())
    vocabulary, merges = _with_numbers_and_signs(tokenizer)
    return _piecewise(Tokenizer(models.BPE(vocabulary, merges)))


def _trainer() -> Any:
    from tokenizers import pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trainers.BpeTrainer(
        vocab_size=len(alphabet) + _WORDS, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )


def _piecewise(tokenizer: Any) -> Any:
    """The tokenizer with `PIECES` cut before and bytes joined after."""
    from tokenizers import Regex, decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_numbers_and_signs(tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The learnt merges of words; added are all pairs of digits, and a space before numbers and signs."""
    learnt = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    space = "Ġ"  # how byte-level vocabularies write a space
    pairs = list(product(digits, digits))
    merges = [(a, b) for a, b in learnt if (a + b).lstrip(space).islower()]
    merges += pairs + [(space, a + b) for a, b in pairs]
    merges += [(space, one) for one in (*digits, *ascii_uppercase, *punctuation)]
    alphabet = sorted(token for token in tokenizer.get_vocab() if len(token) == 1)
    vocabulary = {
        token: rank for rank, token in enumerate(dict.fromkeys([*alphabet, *(a + b for a, b in merges)]))
    }
    return vocabulary, merges
