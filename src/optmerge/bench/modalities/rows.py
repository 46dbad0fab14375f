"""The numbers of the modality benchmark as one flat list, which every program reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.exam import Needs, families
from optmerge.bench.modalities.jobs import CLASSICAL, INPUTS, GivenTask, tasks
from optmerge.bench.modalities.templates import NEEDS
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.line_scores import LineScores, ModelScores, Rule, line_scores
from optmerge.bench.trials.trials import Kind, TrialResult, label
from optmerge.evaluate import statistics
from optmerge.evaluate.statistics import Difference, Estimate, Scores

ALL = "all"


@dataclass(frozen=True)
class InputRow:
    """A model's score on some questions with some of the inputs.

    Args:
        kind: what the model is; printed as part of its label.
        model: its bare name, as in `ModelScores`; printed as its label.
        family: of the questions, or `all`.
        needs: what the questions need, such as `audio+video`.
        inputs: what was given, or `nothing`.
        score: share of right answers; None where the model failed, as the interval.
        low: lower end of the 95 % interval.
        high: upper end.
        n: questions.
        rule: how a merge's scale was chosen: `fixed` or `validation`.
        scale: of the merge, 1 for a method that has no scale; None for a model that isn't merged.
        chance: what guesses get; of all families only.
    """

    kind: Kind
    model: str
    family: str
    needs: str
    inputs: str
    score: float | None
    low: float | None
    high: float | None
    n: int
    rule: Rule
    scale: float | None = None
    chance: float | None = None

    def printed(self) -> dict[str, Any]:
        """Columns of CSV and keys of JSON."""
        found = asdict(self)
        del found["kind"]
        return found | {"model": label(self.kind, self.model)}


def scores_of_modalities(results: Iterable[TrialResult], n: int | None = None) -> LineScores | None:
    """Scores of the models that took the test, from records alone; None where none did.

    Args:
        results: oldest first.
        n: questions with the same needs; by default the most there are.
    """
    versions = dict.fromkeys(tasks(INPUTS), clips.VERSION)
    found = line_scores(results, n=n, versions=versions, experts=MODALITIES, last=CLASSICAL)
    return found[0] if found else None


def takes(model: ModelScores) -> Needs:
    """The modalities that a model takes."""
    if model.kind == "merge":
        return MODALITIES
    return tuple(each for each in MODALITIES if each == model.model)


def answers(model: ModelScores, needs: Needs, given: Needs | None = None) -> Scores | None:
    """Scores of each question, (1, question); None where the model failed.

    Args:
        model: that was asked.
        needs: of the questions.
        given: inputs; everything that the model takes by default.
    """
    return model.scores.get(str(GivenTask(needs, takes(model) if given is None else given)))


def rows(found: LineScores) -> list[InputRow]:
    """Every number there is: model by model, needs by needs, inputs by inputs, families before `all`."""
    return [
        row
        for model in found.models
        for needs in NEEDS
        for given in INPUTS
        if set(given) <= set(takes(model))
        for row in _rows(model, GivenTask(needs, given), found.n)
    ]


def _rows(model: ModelScores, task: GivenTask, n: int) -> list[InputRow]:
    scores = model.scores.get(str(task))
    kinds = families(task.needs)
    turns = np.arange(n) % len(kinds)  # the families take turns
    found = []
    for family in (*kinds, ALL):
        of_it = np.full(n, True) if family == ALL else turns == kinds.index(family)
        estimate = statistics.estimate([scores[:, of_it]]) if scores is not None and of_it.any() else None
        chance = None
        if family == ALL and scores is not None:
            chance = model.metrics[str(task)]["chance"]
        found.append(
            InputRow(
                kind=model.kind,
                model=model.model,
                family=family,
                needs="+".join(task.needs),
                inputs=task.inputs,
                score=estimate.score if estimate else None,
                low=estimate.low if estimate else None,
                high=estimate.high if estimate else None,
                n=int(of_it.sum()),
                rule=model.rule,
                scale=model.scales[0] if model.scales else 1.0 if model.kind == "merge" else None,
                chance=chance,
            )
        )
    return found


def average(model: ModelScores, given: Needs | None = None) -> Estimate | None:
    """Average over all needs, each counting the same."""
    scores = [answers(model, needs, given) for needs in NEEDS]
    there = [each for each in scores if each is not None]
    return statistics.estimate(there) if len(there) == len(NEEDS) else None


def kept(model: ModelScores, experts: Iterable[ModelScores]) -> dict[str, Estimate]:
    """Modality → the model's score as a share of that modality's expert's, each given that modality alone.

    What merging costs: on questions that need nothing else. `all` is the mean over the modalities.
    """
    pairs: dict[str, tuple[Scores, Scores]] = {}
    for expert in experts:
        (own,) = takes(expert)
        score, reference = answers(model, (own,), (own,)), answers(expert, (own,))
        if score is not None and reference is not None:
            pairs[own] = score, reference
    found = {own: statistics.normalised([score], [reference]) for own, (score, reference) in pairs.items()}
    if len(pairs) == len(MODALITIES):
        found[ALL] = statistics.normalised(*map(list, zip(*pairs.values(), strict=True)))
    return {own: each for own, each in found.items() if each is not None}


def gain(
    model: ModelScores, experts: Iterable[ModelScores], needs: Needs
) -> tuple[ModelScores, Difference] | None:
    """The best single expert, and a model's difference from it, everything given; None where one failed."""
    scores = answers(model, needs)
    known = [(each, found) for each in experts if (found := answers(each, needs)) is not None]
    if scores is None or not known:
        return None
    best, reference = max(known, key=lambda pair: float(pair[1].mean()))
    return best, statistics.compare([scores], [reference])


def best(found: LineScores) -> ModelScores | None:
    """The merge with the highest average, everything given; the first of equals."""
    averages = [(each, average(each)) for each in found.merges]
    known = [(each, estimate.score) for each, estimate in averages if estimate is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None
