"""The numbers of the modality benchmark as one flat list: what every program reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optmerge.bench.modalities import clips
from optmerge.bench.modalities.asking import NEEDS
from optmerge.bench.modalities.exam import Needs, families
from optmerge.bench.modalities.orders import CLASSICAL, INPUTS, NOTHING, task, tasks
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials import statistics
from optmerge.bench.trials.cells import BASE, EXPERT, Result
from optmerge.bench.trials.entrants import RULES, Rule
from optmerge.bench.trials.selection import best_scale, current, sweeps, tested
from optmerge.bench.trials.statistics import Difference, Estimate, Scores

ALL = "all"


@dataclass(frozen=True)
class Row:
    """How a model answers some questions with some of the inputs.

    Args:
        model: `base`, `expert:MODALITY`, or a method's name.
        family: of the questions, or `all`.
        needs: what the questions need, such as `audio+video`.
        inputs: what was given, or `nothing`.
        score: share of right answers; None where the model failed, as the interval.
        low: lower end of the 95 % interval.
        high: upper end.
        n: questions.
        rule: how a merge's scale was chosen: `fixed` or `validation`.
        scale: of the merge; None for what isn't one.
        chance: what guesses get; of all families only.
    """

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


@dataclass(frozen=True)
class Entrant:
    """A model and its answers.

    Args:
        model: as in `Row`.
        rule: as in `Row`.
        result: of the test.
    """

    model: str
    rule: Rule
    result: Result

    @property
    def merged(self) -> bool:
        """Whether it is a merge."""
        return self.result.cell.merged

    @property
    def takes(self) -> Needs:
        """The modalities it takes."""
        if self.model == BASE:
            return ()
        own = self.model.removeprefix(EXPERT)
        return MODALITIES if self.merged else tuple(each for each in MODALITIES if each == own)

    def scores(self, needs: Needs, inputs: Needs | None = None) -> Scores | None:
        """Of each question, (1, question); with everything it takes by default; None where it failed."""
        found = self.result.tasks.get(task(needs, self.takes if inputs is None else inputs))
        return None if found is None else found.scores[None]


@dataclass(frozen=True)
class Standing:
    """Everyone who took the test.

    Args:
        n: questions with the same needs.
        entrants: base, experts, then merges at the fixed scale and at the chosen one.
        notes: what a reader must know about what is left out.
    """

    n: int
    entrants: tuple[Entrant, ...]
    notes: tuple[str, ...]

    @property
    def experts(self) -> tuple[Entrant, ...]:
        """The experts."""
        return tuple(each for each in self.entrants if each.model.startswith(EXPERT))

    @property
    def merges(self) -> tuple[Entrant, ...]:
        """The merges that came to something."""
        return tuple(each for each in self.entrants if each.merged and each.result.error is None)


def standing(results: Iterable[Result], n: int | None = None) -> Standing | None:
    """Who took the test, from records alone; None where nobody did.

    Args:
        results: oldest first.
        n: questions with the same needs; by default the most there are.
    """
    alive, notes = current(results, dict.fromkeys(tasks(INPUTS), clips.VERSION))
    chosen, left_out = tested(alive, n)
    swept = sweeps(alive)
    entrants: dict[tuple[str, Rule], Entrant] = {}
    for result in chosen.values():
        cell = result.cell
        if not cell.merged or cell.default:
            entrants[cell.model, "fixed"] = Entrant(cell.model, "fixed", result)
        sweep = swept.get((cell.model, cell.expert_set))
        if sweep and best_scale(sweep) == cell.scale:
            entrants[cell.model, "validation"] = Entrant(cell.model, "validation", result)
    if not entrants:
        return None
    size = next(iter(chosen.values())).cell.n
    return Standing(size, tuple(sorted(entrants.values(), key=_place)), (*notes, *left_out))


def _place(entrant: Entrant) -> tuple[int, int, str]:
    """Trained models, merges by rule and name; the classical ones last."""
    if entrant.merged:
        last = entrant.model in CLASSICAL
        name = f"{CLASSICAL.index(entrant.model)}" if last else entrant.model
        return 1 + RULES.index(entrant.rule) + 2 * last, 0, name
    return 0, [BASE, *(EXPERT + each for each in MODALITIES)].index(entrant.model), ""


def rows(found: Standing) -> list[Row]:
    """Every number there is: model by model, needs by needs, inputs by inputs, families before `all`."""
    return [
        row
        for entrant in found.entrants
        for needs in NEEDS
        for inputs in INPUTS
        if set(inputs) <= set(entrant.takes)
        for row in _rows(entrant, needs, inputs)
    ]


def _rows(entrant: Entrant, needs: Needs, inputs: Needs) -> list[Row]:
    scores = entrant.scores(needs, inputs)
    cell = entrant.result.cell
    kinds = families(needs)
    turns = np.arange(cell.n) % len(kinds)  # the families take turns
    found = []
    for family in (*kinds, ALL):
        of_it = np.full(cell.n, True) if family == ALL else turns == kinds.index(family)
        estimate = statistics.estimate([scores[:, of_it]]) if scores is not None and of_it.any() else None
        chance = None
        if family == ALL and scores is not None:
            chance = entrant.result.tasks[task(needs, inputs)].metrics["chance"]
        found.append(
            Row(
                model=entrant.model,
                family=family,
                needs="+".join(needs),
                inputs="+".join(inputs) or NOTHING,
                score=estimate.score if estimate else None,
                low=estimate.low if estimate else None,
                high=estimate.high if estimate else None,
                n=int(of_it.sum()),
                rule=entrant.rule,
                scale=cell.scale,
                chance=chance,
            )
        )
    return found


def average(entrant: Entrant, inputs: Needs | None = None) -> Estimate | None:
    """Over all needs, each counting the same."""
    scores = [entrant.scores(needs, inputs) for needs in NEEDS]
    there = [each for each in scores if each is not None]
    return statistics.estimate(there) if len(there) == len(NEEDS) else None


def kept(entrant: Entrant, experts: Iterable[Entrant]) -> dict[str, Estimate]:
    """Modality → the model's score beside that modality's expert, each given that modality alone.

    What merging costs: on questions that need nothing else. `all` is the mean over the modalities.
    """
    pairs: dict[str, tuple[Scores, Scores]] = {}
    for expert in experts:
        (own,) = expert.takes
        score, reference = entrant.scores((own,), (own,)), expert.scores((own,))
        if score is not None and reference is not None:
            pairs[own] = score, reference
    found = {own: statistics.normalised([score], [reference]) for own, (score, reference) in pairs.items()}
    if len(pairs) == len(MODALITIES):
        found[ALL] = statistics.normalised(*map(list, zip(*pairs.values(), strict=True)))
    return {own: each for own, each in found.items() if each is not None}


def gain(entrant: Entrant, experts: Iterable[Entrant], needs: Needs) -> tuple[Entrant, Difference] | None:
    """How much better a model is than the best single expert, everything given; and which expert that is."""
    scores = entrant.scores(needs)
    known = [(each, found) for each in experts if (found := each.scores(needs)) is not None]
    if scores is None or not known:
        return None
    best, reference = max(known, key=lambda pair: float(pair[1].mean()))
    return best, statistics.compare([scores], [reference])


def best(found: Standing) -> Entrant | None:
    """The merge with the highest average, everything given; the first of equals."""
    averages = [(each, average(each)) for each in found.merges]
    known = [(each, estimate.score) for each, estimate in averages if estimate is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None
