"""Scores of a line: the records of several expert sets put together, model by model and rule by rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import numpy as np

from optmerge.bench.tasks import registered
from optmerge.bench.trials.record_choice import Sweeps, best_scale, current, sweeps, tested, trained
from optmerge.bench.trials.trials import ROUTING, Kind, TrialResult, label
from optmerge.evaluate.statistics import Scores
from optmerge.recipe import AUTO

Rule = Literal["fixed", "auto", "validation"]
RULES: tuple[Rule, ...] = ("fixed", "auto", "validation")
"""How a scale is chosen: the published one, from the deltas, or the best on the validation split."""
Who = tuple[Kind, str, Rule]
_PLACES: tuple[Kind, ...] = ("base", "expert", "merge", "routing", "mixture")
"""The order of the tables."""


@dataclass(frozen=True)
class ModelScores:
    """A model's scores as the tables know them.

    Args:
        kind: what the model is.
        model: its bare name, as in `Trial`, or `routing`.
        rule: of its scale; `fixed` for a model that has none.
        sets: expert sets it was tested on, in order; empty for a model that belongs to none.
        scores: task → (set, question); one row for a model that belongs to no set.
        metrics: task → metric → mean over the sets.
        scales: of each set's merge.
        seconds: of each set's merge.
        peak_bytes: of each set's merge, where it was measured.
        failures: expert set → why there is no score.
    """

    kind: Kind
    model: str
    rule: Rule
    sets: tuple[int, ...]
    scores: Mapping[str, Scores]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scales: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    peak_bytes: tuple[float, ...] = ()
    failures: tuple[tuple[int | None, str], ...] = ()

    @property
    def label(self) -> str:
        """The model's name in tables."""
        return label(self.kind, self.model)


@dataclass(frozen=True)
class LineScores:
    """The scores of one line's models.

    Args:
        line: of models.
        n: questions a task.
        tasks: in the order of the tables.
        models: base, experts, merges at the fixed scale and at the chosen one, routing, mixture.
        sweeps: the complete ones.
        notes: what a reader must know about what is left out.
    """

    line: str
    n: int
    tasks: tuple[str, ...]
    models: tuple[ModelScores, ...]
    sweeps: Sweeps
    notes: tuple[str, ...]

    @property
    def experts(self) -> tuple[ModelScores, ...]:
        """The experts, those that failed included."""
        return tuple(each for each in self.models if each.kind == "expert")

    @property
    def merges(self) -> tuple[ModelScores, ...]:
        """The merges, those that failed included."""
        return tuple(each for each in self.models if each.kind == "merge")

    @property
    def failure(self) -> str | None:
        """The first model's reason where every model failed; None where one has scores."""
        if any(each.scores for each in self.models):
            return None
        return f"{self.models[0].label}: {self.models[0].failures[0][1]}"

    def find(self, kind: Kind, model: str, rule: Rule = "fixed") -> ModelScores | None:
        """The scores of that model, if it took the test."""
        wanted = kind, model, rule
        return next((each for each in self.models if (each.kind, each.model, each.rule) == wanted), None)

    def references(self, sets: Sequence[int]) -> dict[str, Scores] | None:
        """Each capability's own expert on these sets; None where one wasn't tested on all of them."""
        found = {}
        for task in trained(self.tasks):
            expert = self.find("expert", task)
            if expert is None or not expert.scores or not set(sets) <= set(expert.sets):
                return None
            found[task] = expert.scores[task][[expert.sets.index(number) for number in sets]]
        return found


def line_scores(
    results: Iterable[TrialResult],
    *,
    n: int | None = None,
    versions: Mapping[str, int] | None = None,
    experts: Sequence[str] | None = None,
    last: Sequence[str] = (),
) -> list[LineScores]:
    """Every line's scores, from records alone.

    Args:
        results: oldest first.
        n: questions a task; by default the most that a line was asked.
        versions: task → version that counts; of the registered tasks by default.
        experts: the experts' names in the order of the tables; the registered tasks by default.
        last: methods that come after all others, in order.
    """
    alive, notes = current(results, versions)
    lines: dict[str, list[TrialResult]] = defaultdict(list)
    for result in alive:
        lines[result.trial.line].append(result)
    order = list(registered()) if experts is None else list(experts)

    def place(each: ModelScores) -> tuple[int, int, int, str]:
        if each.kind == "expert":
            return _PLACES.index(each.kind), 0, order.index(each.model), ""
        late = last.index(each.model) + 1 if each.model in last else 0
        return _PLACES.index(each.kind), RULES.index(each.rule) + len(RULES) * bool(late), late, each.model

    found = []
    for line in sorted(lines):
        chosen, left_out = tested(lines[line], n)
        if chosen:
            swept, asked = sweeps(lines[line]), list(chosen.values())
            models = sorted(_models(asked, swept), key=place)
            found.append(_line(line, models, asked, swept, [*notes, *left_out]))
    return found


def _models(results: Sequence[TrialResult], swept: Sweeps) -> list[ModelScores]:
    """One line's models at the rules that they were tested at, and routing."""
    groups: dict[Who, list[TrialResult]] = defaultdict(list)
    for result in results:
        trial = result.trial
        if trial.scale == AUTO:
            groups[trial.kind, trial.model, "auto"].append(result)
        elif trial.kind != "merge" or trial.default:
            groups[trial.kind, trial.model, "fixed"].append(result)
        sweep = swept.get((trial.model, trial.expert_set)) if trial.kind == "merge" else None
        if sweep and best_scale(sweep) == trial.scale:
            groups[trial.kind, trial.model, "validation"].append(result)
    models = [_model(who, each) for who, each in groups.items()]
    tasks = {task for result in results for task in result.trial.tasks}
    return models + _routed(models, trained(tasks))


def _line(
    line: str,
    models: Sequence[ModelScores],
    results: Sequence[TrialResult],
    swept: Sweeps,
    notes: Sequence[str],
) -> LineScores:
    tasks = {task for result in results for task in result.trial.tasks}
    return LineScores(
        line=line,
        n=results[0].trial.n,
        tasks=(*trained(tasks), *sorted(set(tasks) - set(trained(tasks)))),
        models=tuple(models),
        sweeps=swept,
        notes=(*notes, *_lacking(models)),
    )


def _lacking(models: Sequence[ModelScores]) -> list[str]:
    """Models that weren't tested on all expert sets, in words."""
    everyone = sorted({number for each in models for number in each.sets})
    return [
        f"{each.label} ({each.rule}): of expert sets {_listed(everyone)} only {_listed(each.sets)}"
        for each in models
        if each.sets and len(each.sets) < len(everyone)
    ]


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _model(who: Who, results: Sequence[TrialResult]) -> ModelScores:
    # A model is one for all sets or one for each; where there are both, each set's own counts.
    results = [result for result in results if result.trial.expert_set is not None] or results
    ordered = sorted(
        results, key=lambda result: -1 if result.trial.expert_set is None else result.trial.expert_set
    )
    done = [result for result in ordered if result.error is None]
    kind, model, rule = who
    merges = done if kind == "merge" else []
    tasks = done[0].tasks if done else {}
    return ModelScores(
        kind=kind,
        model=model,
        rule=rule,
        sets=tuple(r.trial.expert_set for r in done if r.trial.expert_set is not None),
        scores={task: np.stack([result.tasks[task].scores for result in done]) for task in tasks},
        metrics={
            task: {name: fmean(result.tasks[task].metrics[name] for result in done) for name in each.metrics}
            for task, each in tasks.items()
        },
        scales=tuple(r.trial.scale for r in ordered if isinstance(r.trial.scale, float)),
        seconds=tuple(result.cost["merge_seconds"] for result in merges),
        peak_bytes=tuple(r.cost["merge_peak_bytes"] for r in merges if "merge_peak_bytes" in r.cost),
        failures=tuple((r.trial.expert_set, r.error) for r in ordered if r.error is not None),
    )


def _routed(models: Sequence[ModelScores], tasks: Sequence[str]) -> list[ModelScores]:
    """Each capability answered by its own expert: five models' weights, and a router that always knows.

    A question of several capabilities has no expert of its own.
    """
    experts = {each.model: each for each in models if each.kind == "expert" and each.scores}
    if not tasks or not all(task in experts for task in tasks):
        return []
    sets = tuple(sorted(set.intersection(*(set(experts[task].sets) for task in tasks))))
    if not sets:
        return []
    scores = {}
    for task in tasks:
        own = experts[task]
        scores[task] = own.scores[task][[own.sets.index(number) for number in sets]]
    return [ModelScores("routing", ROUTING, "fixed", sets, scores)]
