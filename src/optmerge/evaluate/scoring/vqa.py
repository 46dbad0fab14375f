"""VQA scores: exact match, and accuracy over ten people's answers, after the VQA evaluation's normalisation.

The rules are those published for the VQA challenge (Antol et al. 2015): lower case, no articles, numbers as
digits, apostrophes back in contractions, punctuation gone except apostrophes, colons and decimal points. The
normalisation is always applied; the original script skips it for the rare question that all ten people
answered in exactly the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that become a space, or nothing (see `_without_punctuation`)."""
ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS: Mapping[str, str] = {"none": "0"} | {word: str(n) for n, word in enumerate(_NUMBERS)}

# Stem → endings. Those that would make another word without the apostrophe (its, well, hell, id, ill, were,
# shell, wed, shed) are left out, as in the original.
_ENDINGS: Mapping[str, str] = {
    "ain": "'t",
    "aren": "'t",
    "can": "'t",
    "couldn": "'t 't've",
    "could": "'ve",
    "didn": "'t",
    "doesn": "'t",
    "don": "'t",
    "hadn": "'t 't've",
    "hasn": "'t",
    "haven": "'t",
    "he": "'d 'd've 's",
    "how": "'d 'll 's",
    "i": "'d've 'm 've",
    "isn": "'t",
    "it": "'d 'd've 'll",
    "ma": "'am",
    "mightn": "'t 't've",
    "might": "'ve",
    "mustn": "'t",
    "must": "'ve",
    "needn": "'t",
    "not": "'ve",
    "o": "'clock",
    "oughtn": "'t",
    "shan": "'t",
    "she": "'d've",
    "should": "'ve",
    "shouldn": "'t 't've",
    "somebody": "'d 'd've 'll 's",
    "someone": "'d 'd've 'll 's",
    "something": "'d 'd've 'll",
    "that": "'s",
    "there": "'d 'd've 're 's",
    "they": "'d 'd've 'll 're 've",
    "": "'twas 'ow's'at",
    "wasn": "'t",
    "we": "'d've 've",
    "weren": "'t",
    "what": "'ll 're 's 've",
    "when": "'s",
    "where": "'d 's 've",
    "who": "'d 'd've 'll 's 've",
    "why": "'ll 're 's",
    "won": "'t",
    "would": "'ve",
    "wouldn": "'t 't've",
    "y": "'all 'all'll 'all'd've",
    "you": "'d 'd've 'll 're 've",
}


def _misspelled() -> dict[str, str]:
    """Every contraction with one or more of its apostrophes missing → the contraction."""
    table: dict[str, str] = {}
    for stem, endings in _ENDINGS.items():
        for contraction in (stem + ending for ending in endings.split()):
            pieces = contraction.split("'")
            written = [pieces[0]]
            for piece in pieces[1:]:
                written = [text + mark + piece for text in written for mark in ("", "'")]
            table |= dict.fromkeys(written[:-1], contraction)  # the last has every apostrophe
    return table


CONTRACTIONS: Mapping[str, str] = _misspelled()


def normalise(text: str) -> str:
    """The form in which answers are compared."""
    words = _without_punctuation(" ".join(text.split())).lower().split()
    numbered = (NUMBER_WORDS.get(word, word) for word in words)
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals one of the answers after normalisation, else 0."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy: min(1, matches / 3), averaged over leaving each person's answer out once.

    Args:
        prediction: what the model said.
        answers: one per person, repetitions kept; ten in VQA v2, TextVQA and VizWiz.

    Returns:
        0 for no match, and for ten answers 0.3, 0.6, 0.9 and 1 for one, two, three and four or more.
        A single answer is compared by exact match, because there is no other person to agree with.
    """
    matches = [normalise(answer) == normalise(prediction) for answer in answers]
    if len(matches) < 2:
        return float(any(matches))
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def _without_punctuation(text: str) -> str:
    """Punctuation beside a space goes, between letters it becomes a space; "1,000" loses all of it."""
    grouped = re.search(r"\d,\d", text) is not None
    kept = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if grouped or beside_space else " ")
    return re.sub(r"\.(?!\d)", "", kept)
