"""The metrics that a question of a file can name."""

from __future__ import annotations

from collections.abc import Mapping

from optmerge.evaluate.questions import Metric
from optmerge.evaluate.scoring import boxes, charts, choices, metric, ocr, vqa

METRICS: Mapping[str, Metric] = {
    "exact": metric(ocr.exact_match),
    "vqa": metric(vqa.exact_match),
    "vqa10": metric(vqa.soft_accuracy),
    "choice": choices.accuracy,
    "relaxed": metric(charts.relaxed_accuracy),
    "anls": metric(ocr.anls),
    "box": boxes.accuracy,
}
"""Name → metric. In this order: exact match apart from case and spaces; exact match after VQA normalisation;
VQA accuracy over ten people's answers; the option chosen, or else the number; numbers within 5 %; normalised
Levenshtein similarity; intersection over union of at least a half."""
