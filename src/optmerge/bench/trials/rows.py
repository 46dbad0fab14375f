"""The numbers of a table as one flat list: what every form of it, and every program, reads."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from optmerge.bench.trials import statistics
from optmerge.bench.trials.entrants import Entrant, Rule, Standing
from optmerge.bench.trials.selection import trained
from optmerge.bench.trials.statistics import Estimate, Scores

AVERAGE = "average"


@dataclass(frozen=True)
class Row:
    """One model's score on one capability.

    Args:
        line: of models.
        model: `base`, `expert:TASK`, `mixture`, `routing`, or a method's name.
        capability: a task, or `average` over those that are trained.
        score: in [0, 1]; None where every cell failed.
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
        failed: cells that have no score.
    """

    line: str
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


def rows(standing: Standing) -> list[Row]:
    """One line's rows: entrant by entrant, the tasks in order, `average` behind those it is made of."""
    return [row for entrant in standing.entrants for row in _rows(standing, entrant)]


def _rows(standing: Standing, entrant: Entrant) -> list[Row]:
    known = trained(standing.tasks)
    held_out = [task for task in standing.tasks if task not in known]
    groups: dict[str, list[str]] = {**{task: [task] for task in known}, AVERAGE: known}
    groups |= {task: [task] for task in held_out}
    references = _references(standing, entrant)
    found = []
    for capability, tasks in groups.items():
        if entrant.scores and not entrant.scores.keys() >= set(tasks):
            continue  # routing of held-out tasks
        scores = [entrant.scores[task] for task in tasks] if entrant.scores else []
        own = [references[task] for task in tasks if task in references] if scores else []
        estimate = statistics.estimate(scores) if scores else None
        found.append(_row(standing, entrant, capability, estimate, _ratio(scores, own)))
    return found


def _row(
    standing: Standing, entrant: Entrant, capability: str, estimate: Estimate | None, ratio: Estimate | None
) -> Row:
    return Row(
        line=standing.line,
        model=entrant.model,
        capability=capability,
        score=estimate.score if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        n=estimate.n if estimate else None,
        seeds=max(1, len(entrant.sets)) if estimate else 0,
        scale_rule=entrant.rule,
        normalised=ratio.score if ratio else None,
        normalised_low=ratio.low if ratio else None,
        normalised_high=ratio.high if ratio else None,
        deviation=estimate.deviation if estimate else None,
        scales=entrant.scales,
        merge_seconds=fmean(entrant.seconds) if entrant.seconds else None,
        merge_peak_bytes=fmean(entrant.peak_bytes) if entrant.peak_bytes else None,
        failed=len(entrant.failures),
    )


def _references(standing: Standing, entrant: Entrant) -> dict[str, Scores]:
    """The experts' scores beside the entrant's; all sets' for one that belongs to none."""
    sets = entrant.sets or _all_sets(standing)
    return standing.references(sets) or {}


def _all_sets(standing: Standing) -> tuple[int, ...]:
    """The sets whose experts were all tested, as routing has them."""
    routed = standing.find("routing")
    return routed.sets if routed else ()


def _ratio(scores: list[Scores], own: list[Scores]) -> Estimate | None:
    """Scores beside the experts'."""
    if not own or len(own) != len(scores):
        return None
    along = [np.broadcast_to(each, expert.shape) for each, expert in zip(scores, own, strict=True)]
    return statistics.normalised(along, own)
