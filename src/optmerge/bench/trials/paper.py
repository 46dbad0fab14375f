"""The tables of the OptMerge paper (arXiv:2505.19892) in the same form as ours."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.resources import files
from statistics import fmean

from optmerge.bench.tasks import registered
from optmerge.bench.trials.rows import AVERAGE, ScoreRow
from optmerge.bench.trials.trials import BASE, MIXTURE, Kind

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "vqa": ("VizWiz", "GQA"),
    "geometry": ("MathVista", "MATH-Vision"),
    "chart": ("ChartQA",),
    "ocr": ("TextVQA", "OCRVQA"),
    "grounding": ("RefCOCO", "RefCOCO+", "RefCOCOg"),
}
"""Capability → the data sets it is the mean of."""
TABLES: Mapping[str, str] = {
    "InternVL2.5-1B": "internvl2_5_1b_full.csv",
    "Qwen2-VL-7B": "qwen2_vl_7b_lora.csv",
}
"""Model → its table. InternVL2.5's experts were fully fine-tuned; Qwen2-VL's are LoRA adapters."""
NOTES = (
    "as published in arXiv:2505.19892; each capability is the mean of its data sets",
    "average: as published, over the data sets; of an expert without grounding, over the others",
    "merge s, peak MB: as published, of GPU memory; of the mixture, its training's",
)
_MIXTURES = ("mixture_training", "qwen2_vl_7b_instruct")
"""Names of models that were trained on everything; of Qwen2-VL that is its own Instruct model."""


def rows(model: str) -> list[ScoreRow]:
    """The rows of one of `TABLES`; scores come without intervals, and scales as the authors chose them."""
    scores = {_who(line["model"]): _scores(line) for line in _read(TABLES[model])}
    costs = {_who(line["method"]): line for line in _read("cost.csv") if line["model"] == model}
    own = {task: scores["expert", task][task] for task in COLUMNS}
    found = []
    for who, by_capability in scores.items():
        shares = {task: by_capability[task] / own[task] for task in COLUMNS if task in by_capability}
        if len(shares) == len(COLUMNS):
            shares[AVERAGE] = fmean(shares.values())
        for capability, score in by_capability.items():
            found.append(_row(model, who, capability, score, shares.get(capability), costs.get(who)))
    return found


def _who(name: str) -> tuple[Kind, str]:
    """What the paper's tables call a model, as kind and name."""
    titles = {f"expert:{task.title}": task.name for task in registered().values()}
    if name in titles:
        return "expert", titles[name]
    if name in _MIXTURES:
        return "mixture", MIXTURE
    return ("base", BASE) if name == BASE else ("merge", name)


def _row(
    line: str,
    who: tuple[Kind, str],
    capability: str,
    score: float,
    share: float | None,
    cost: Mapping[str, str] | None,
) -> ScoreRow:
    kind, model = who
    return ScoreRow(
        line=line,
        kind=kind,
        model=model,
        capability=capability,
        score=score,
        low=None,
        high=None,
        n=None,
        seeds=1,
        scale_rule="fixed",
        normalised=share,
        merge_seconds=3600 * float(cost["hours"]) if cost else None,
        merge_peak_bytes=1e9 * float(cost["peak_gpu_memory_gb"]) if cost else None,
    )


def _scores(line: Mapping[str, str]) -> dict[str, float]:
    """Shares of one model by capability, those that weren't published left out."""
    percents = {
        task: [float(line[column]) for column in columns if line[column]] for task, columns in COLUMNS.items()
    }
    percents[AVERAGE] = [float(line["Average"])]
    return {name: fmean(values) / 100 for name, values in percents.items() if values}


def _read(name: str) -> list[dict[str, str]]:
    text = (files("optmerge.bench") / "paper" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
