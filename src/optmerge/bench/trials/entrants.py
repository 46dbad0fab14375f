"""Who took the test: records of several expert sets put together, model by model and rule by rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optmerge.bench.tasks import registered
from optmerge.bench.trials.cells import BASE, EXPERT, MIXTURE, ROUTING, Result
from optmerge.bench.trials.selection import Sweeps, best_scale, current, sweeps, tested, trained
from optmerge.bench.trials.statistics import Scores

Rule = Literal["fixed", "validation"]
RULES: tuple[Rule, ...] = ("fixed", "validation")
"""How a scale is chosen: the method's own default, or the best on the validation split."""


@dataclass(frozen=True)
class Entrant:
    """A model as the tables know it.

    Args:
        model: `base`, `expert:TASK`, `mixture`, `routing`, or a method's name.
        rule: of its scale; `fixed` for whatever has none.
        sets: expert sets it was tested on, in order; empty for what belongs to none.
        scores: task → (set, question); one row for what belongs to no set.
        scales: of each set's merge.
        seconds: of each set's merge.
        peak_bytes: of each set's merge, where it was measured.
        failures: expert set → why there is no score.
    """

    model: str
    rule: Rule
    sets: tuple[int, ...]
    scores: dict[str, Scores]
    scales: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    peak_bytes: tuple[float, ...] = ()
    failures: tuple[tuple[int | None, str], ...] = ()

    @property
    def merged(self) -> bool:
        """Whether it is a merge: neither trained nor routed."""
        return self.model not in (BASE, MIXTURE, ROUTING) and not self.model.startswith(EXPERT)


@dataclass(frozen=True)
class Standing:
    """One line's entrants.

    Args:
        line: of models.
        n: questions a task.
        tasks: in the order of the tables.
        entrants: base, experts, merges at the fixed scale and at the chosen one, routing, mixture.
        sweeps: the complete ones.
        notes: what a reader must know about what is left out.
    """

    line: str
    n: int
    tasks: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    sweeps: Sweeps
    notes: tuple[str, ...]

    def find(self, model: str, rule: Rule = "fixed") -> Entrant | None:
        """The entrant of that name, if it took the test."""
        return next((e for e in self.entrants if (e.model, e.rule) == (model, rule)), None)

    def references(self, sets: Sequence[int]) -> dict[str, Scores] | None:
        """Each capability's own expert on these sets; None where one wasn't tested on all of them."""
        found = {}
        for task in trained(self.tasks):
            expert = self.find(EXPERT + task)
            if expert is None or not set(sets) <= set(expert.sets):
                return None
            found[task] = expert.scores[task][[expert.sets.index(number) for number in sets]]
        return found


def standings(results: Iterable[Result], *, n: int | None = None) -> list[Standing]:
    """Every line's standing, from records alone.

    Args:
        results: oldest first.
        n: questions a task; by default the most that a line was asked.
    """
    alive, notes = current(results)
    lines: dict[str, list[Result]] = defaultdict(list)
    for result in alive:
        lines[result.cell.line].append(result)
    found = []
    for line in sorted(lines):
        chosen, left_out = tested(lines[line], n)
        if chosen:
            found.append(_standing(line, list(chosen.values()), sweeps(lines[line]), [*notes, *left_out]))
    return found


def _standing(line: str, results: list[Result], swept: Sweeps, notes: list[str]) -> Standing:
    groups: dict[tuple[str, Rule], list[Result]] = defaultdict(list)
    for result in results:
        cell = result.cell
        if not cell.merged or cell.default:
            groups[cell.model, "fixed"].append(result)
        sweep = swept.get((cell.model, cell.expert_set))
        if sweep and best_scale(sweep) == cell.scale:
            groups[cell.model, "validation"].append(result)
    entrants = [_entrant(model, rule, each) for (model, rule), each in groups.items()]
    tasks = {task for result in results for task in result.cell.tasks}
    entrants += _routed(entrants, trained(tasks))
    return Standing(
        line=line,
        n=results[0].cell.n,
        tasks=(*trained(tasks), *sorted(set(tasks) - set(trained(tasks)))),
        entrants=tuple(sorted(entrants, key=_place)),
        sweeps=swept,
        notes=(*notes, *_lacking(entrants)),
    )


def _lacking(entrants: Sequence[Entrant]) -> list[str]:
    """Who wasn't tested on all expert sets, in words."""
    everyone = sorted({number for entrant in entrants for number in entrant.sets})
    return [
        f"{each.model} ({each.rule}): of expert sets {_listed(everyone)} only {_listed(each.sets)}"
        for each in sorted(entrants, key=_place)
        if each.sets and len(each.sets) < len(everyone)
    ]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _entrant(model: str, rule: Rule, results: Sequence[Result]) -> Entrant:
    # A model is one for all sets or one for each; where there are both, each set's own counts.
    results = [result for result in results if result.cell.expert_set is not None] or results
    ordered = sorted(
        results, key=lambda result: -1 if result.cell.expert_set is None else result.cell.expert_set
    )
    done = [result for result in ordered if result.error is None]
    merges = [result for result in done if result.cell.merged]
    return Entrant(
        model=model,
        rule=rule,
        sets=tuple(r.cell.expert_set for r in done if r.cell.expert_set is not None),
        scores={
            task: np.stack([result.tasks[task].scores for result in done])
            for task in (done[0].tasks if done else ())
        },
        scales=tuple(result.cell.scale for result in merges if result.cell.scale is not None),
        seconds=tuple(result.cost["merge_seconds"] for result in merges),
        peak_bytes=tuple(r.cost["merge_peak_bytes"] for r in merges if "merge_peak_bytes" in r.cost),
        failures=tuple((r.cell.expert_set, r.error) for r in ordered if r.error is not None),
    )


def _routed(entrants: Sequence[Entrant], tasks: Sequence[str]) -> list[Entrant]:
    """Each capability answered by its own expert: five models' weights, and someone who knows which to ask.

    A question of several capabilities has no expert of its own.
    """
    experts = {entrant.model: entrant for entrant in entrants if entrant.scores}
    if not all(EXPERT + task in experts for task in tasks):
        return []
    sets = set.intersection(*(set(experts[EXPERT + task].sets) for task in tasks))
    if not sets:
        return []
    order = tuple(sorted(sets))
    scores = {}
    for task in tasks:
        own = experts[EXPERT + task]
        scores[task] = own.scores[task][[own.sets.index(number) for number in order]]
    return [Entrant(ROUTING, "fixed", order, scores)]


def _place(entrant: Entrant) -> tuple[int, int, str]:
    """The order of the tables; methods by name."""
    if entrant.merged:
        return 3, RULES.index(entrant.rule), entrant.model
    if entrant.model.startswith(EXPERT):
        return 1, list(registered()).index(entrant.model.removeprefix(EXPERT)), entrant.model
    return {BASE: 0, ROUTING: 4, MIXTURE: 5}[entrant.model], 0, ""
