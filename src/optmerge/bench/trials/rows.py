"""The numbers of a table as one flat list, which every form of the table and every program reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from optmerge.bench.trials.line_scores import LineScores, ModelScores, Rule
from optmerge.bench.trials.record_choice import trained
from optmerge.bench.trials.trials import ROUTING, Kind, label
from optmerge.evaluate import statistics
from optmerge.evaluate.statistics import Estimate, Scores

AVERAGE = "average"


@dataclass(frozen=True)
class ScoreRow:
    """One model's score on one capability.

    Args:
        line: of models.
        kind: what the model is; printed as part of its label.
        model: its bare name, as in `ModelScores`; printed as its label.
        capability: a task, or `average` over those that are trained.
        score: in [0, 1]; None where every trial failed.
        low: lower end of the 95 % interval; None where nothing is known of it, as high.
        high: upper end.
        n: questions.
        seeds: number of expert sets.
        scale_rule: `fixed` or `validation`.
        normalised: score / own expert's score, and for `average` the mean of these; None where the experts
            weren't tested, and of held-out tasks.
        normalised_low: lower end of its 95 % interval.
        normalised_high: upper end.
        deviation: standard deviation over the expert sets; None for one.
        scales: of each set's merge.
        merge_seconds: wall time of a merge, mean over the sets.
        merge_peak_bytes: what a merge added to the process's memory at most, mean over the sets.
        failed: trials that have no score.
    """

    line: str
    kind: Kind
    model: str
    capability: str
    score: float | None
    low: float | None
    high: float | None
    n: int | None
    seeds: int
    scale_rule: Rule
    normalised: float | None
    normalised_low: float | None = None
    normalised_high: float | None = None
    deviation: float | None = None
    scales: tuple[float, ...] = ()
    merge_seconds: float | None = None
    merge_peak_bytes: float | None = None
    failed: int = 0

    @property
    def label(self) -> str:
        """The model's name in tables."""
        return label(self.kind, self.model)

    def printed(self) -> dict[str, Any]:
        """Columns of CSV and keys of JSON."""
        found = asdict(self)
        del found["kind"]
        return found | {"model": self.label}


def rows(scores: LineScores) -> list[ScoreRow]:
    """One line's rows: model by model, the tasks in order, `average` behind those it is made of."""
    return [row for each in scores.models for row in _rows(scores, each)]


def _rows(line: LineScores, model: ModelScores) -> list[ScoreRow]:
    known = trained(line.tasks)
    held_out = [task for task in line.tasks if task not in known]
    groups: dict[str, list[str]] = {**{task: [task] for task in known}, AVERAGE: known}
    groups |= {task: [task] for task in held_out}
    references = _references(line, model)
    found = []
    for capability, tasks in groups.items():
        if model.scores and not model.scores.keys() >= set(tasks):
            continue  # routing of held-out tasks
        scores = [model.scores[task] for task in tasks] if model.scores else []
        own = [references[task] for task in tasks if task in references] if scores else []
        estimate = statistics.estimate(scores) if scores else None
        found.append(_row(line, model, capability, estimate, _ratio(scores, own)))
    return found


def _row(
    line: LineScores, model: ModelScores, capability: str, estimate: Estimate | None, ratio: Estimate | None
) -> ScoreRow:
    return ScoreRow(
        line=line.line,
        kind=model.kind,
        model=model.model,
        capability=capability,
        score=estimate.score if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        n=estimate.n if estimate else None,
        seeds=max(1, len(model.sets)) if estimate else 0,
        scale_rule=model.rule,
        normalised=ratio.score if ratio else None,
        normalised_low=ratio.low if ratio else None,
        normalised_high=ratio.high if ratio else None,
        deviation=estimate.deviation if estimate else None,
        scales=model.scales,
        merge_seconds=fmean(model.seconds) if model.seconds else None,
        merge_peak_bytes=fmean(model.peak_bytes) if model.peak_bytes else None,
        failed=len(model.failures),
    )


def _references(line: LineScores, model: ModelScores) -> dict[str, Scores]:
    """The experts' scores on the model's sets; on all sets for a model that belongs to none."""
    return line.references(model.sets or _all_sets(line)) or {}


def _all_sets(line: LineScores) -> tuple[int, ...]:
    """The sets whose experts were all tested, as routing has them."""
    routed = line.find("routing", ROUTING)
    return routed.sets if routed else ()


def _ratio(scores: list[Scores], own: list[Scores]) -> Estimate | None:
    """Scores as shares of the experts'."""
    if not own or len(own) != len(scores):
        return None
    along = [np.broadcast_to(each, expert.shape) for each, expert in zip(scores, own, strict=True)]
    return statistics.normalised(along, own)
