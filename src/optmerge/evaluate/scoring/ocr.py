"""Scores for text that was read: exact match (OCR-VQA) and ANLS (ST-VQA, DocVQA).

TextVQA counts as VQA does: `vqa.soft_accuracy` over ten people's answers.
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers apart from case and spacing, else 0."""
    return float(_plain(prediction) in {_plain(answer) for answer in answers})


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the accepted answer nearest the prediction (Biten et al. 2019).

    Similarity is 1 − edits / length of the longer text, apart from case and spacing. A similarity below a
    half counts as 0; exactly a half counts, as in the DocVQA evaluation.
    """
    best = max((_similarity(_plain(prediction), _plain(answer)) for answer in answers), default=0.0)
    return best if best >= THRESHOLD else 0.0


def edits(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, mine in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, yours in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (mine != yours))
    return row[-1]


def _similarity(a: str, b: str) -> float:
    return 1 - edits(a, b) / (max(len(a), len(b)) or 1)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
