"""Placeholders in prompts: found, counted against the items, expanded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from optmerge.errors import InputError

USUAL = {"image": "<image>", "audio": "<audio>", "video": "<video>"}
"""Modality → placeholder, unless a tower says otherwise."""


def check_counts(texts: Sequence[str], tokens: Mapping[str, str], items: Mapping[str, int]) -> None:
    """Refuses prompts that don't have one placeholder for each item.

    Args:
        texts: prompts, one a row.
        tokens: modality → placeholder, for every tower.
        items: modality → number of items of all rows.

    Raises:
        InputError: placeholders or items are left over, or there is no tower for their modality.
    """
    for modality, count in items.items():
        if modality not in tokens:
            takes = ", ".join(tokens) or "text alone"
            raise InputError(f"the model takes no {modality}", got=f"{count} of them", expected=takes)
    found = [Counter(modality for modality, _ in placeholders(text, tokens)) for text in texts]
    for modality, token in USUAL.items():
        if (
            modality not in tokens
            and (row := next((i for i, t in enumerate(texts) if token in t), None)) is not None
        ):
            raise InputError(
                f"the model takes no {modality}",
                where=f"prompt {row}",
                got=token,
                expected=", ".join(tokens.values()) or "no placeholder",
                hint=f"leave {token} out, or ask a model with a tower for {modality}",
            )
    for modality, token in tokens.items():
        count, places = items.get(modality, 0), sum(row[modality] for row in found)
        if count != places:
            rows = ", ".join(str(row[modality]) for row in found)
            raise InputError(
                f"{places} {token} for {count} {modality} items",
                where="prompts",
                got=f"{rows} in prompts 0 to {len(texts) - 1}" if len(texts) > 1 else None,
                expected=f"one {token} for each item, in the order of the items",
            )


def expand(
    texts: Sequence[str], tokens: Mapping[str, str], lengths: Mapping[str, Sequence[int]]
) -> list[str]:
    """Prompts in which each placeholder is repeated as often as its item has embeddings.

    Args:
        texts: prompts, one a row, that `check_counts` has let through.
        tokens: modality → placeholder.
        lengths: modality → number of embeddings of each item, row after row.
    """
    left = {modality: iter(each) for modality, each in lengths.items()}
    expanded = []
    for text in texts:
        parts, end = [], 0
        for modality, place in placeholders(text, tokens):
            parts += [text[end : place.start()], tokens[modality] * next(left[modality])]
            end = place.end()
        expanded.append("".join([*parts, text[end:]]))
    return expanded


def placeholders(text: str, tokens: Mapping[str, str]) -> Iterator[tuple[str, re.Match[str]]]:
    """(modality, match) of each placeholder in a text, from left to right."""
    if tokens:
        by_token = {token: modality for modality, token in tokens.items()}
        longest_first = sorted(by_token, key=len, reverse=True)
        for place in re.finditer("|".join(map(re.escape, longest_first)), text):
            yield by_token[place.group()], place
