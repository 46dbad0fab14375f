"""Jobs: trials, and where their models come from. What a run is to do, and how one job ends with a record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from optmerge.bench import lines as known_lines
from optmerge.bench import records
from optmerge.bench.lines import Members
from optmerge.bench.lines.tiny.family import write_json
from optmerge.bench.trials import trials
from optmerge.bench.trials.record_choice import SCALES
from optmerge.bench.trials.trials import BASE, MIXTURE, TaskScores, Trial, TrialResult
from optmerge.errors import OptMergeError
from optmerge.methods import Method, ModifiedMethod, get, registered
from optmerge.recipe import AUTO

TEST, VALIDATION = 1000, 300
"""Questions a task; scales are chosen on fewer."""
QUICK = 200
"""Questions a task of a quick run."""
QUICK_METHODS = ("average", "task_arithmetic", "ties", "tsv", "swudi", "optmerge")

Loaded = TypeVar("Loaded")
Answered = Mapping[str, tuple[TaskScores, Sequence[Mapping[str, Any]]]]
"""Task → scores, and what was asked, answered and right, question by question."""


@dataclass(frozen=True)
class Job:
    """A trial and where its model comes from.

    Args:
        trial: what is asked of which model.
        base: folder.
        model: folder of a trained model; None where the experts are merged.
        experts: name → folder of what is merged.
        test: of a job on the validation split: the trial that follows if this scale turns out the best.
        parameters: what the recipe says beside the method's name and scale.
    """

    trial: Trial
    base: Path
    model: Path | None = None
    experts: Mapping[str, Path] | None = None
    test: Trial | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """Recipe of the merge."""
        trial = self.trial
        experts = [{"model": str(path), "name": name} for name, path in (self.experts or {}).items()]
        method = {"name": trial.model, **self.parameters}
        if trial.scale is not None and not get(trial.model).fixed_scale:
            method["scale"] = trial.scale
        return {"base": str(self.base), "experts": experts, "method": method}

    def folder(self, scratch: Path) -> Path:
        """Folder of what is made for this job, under `scratch`; no two jobs share one."""
        trial = self.trial
        return scratch / f"{trial.line}-{trial.label.replace(':', '-')}-{trial.identity()[:12]}"

    def merged(self, scratch: Path) -> Path:
        """Folder of the merged model, under `scratch`."""
        return self.folder(scratch) / "model"

    def answers(self, scratch: Path) -> Path:
        """File of what was asked, answered and right, under `scratch`."""
        return self.folder(scratch) / "answers.json"


def jobs(
    zoo_folder: Path,
    lines: Sequence[str],
    sets: Sequence[int],
    methods: Sequence[str],
    *,
    n: int = TEST,
    quick: bool = False,
) -> tuple[list[Job], list[str]]:
    """The jobs of a run, in the order in which results are wanted; and what is left out, in words.

    Args:
        zoo_folder: with the trained models.
        lines: of models; all that the zoo holds if empty.
        sets: expert sets; all that the zoo holds of a line if empty, or the first for a quick run.
        methods: names; every registered one if empty.
        n: test questions a task.
        quick: merge by the defaults, scales included, and sweep none.

    Raises:
        InputError: a line or method is unknown, or a method doesn't take that many experts.
        CheckpointError: a model is missing.
    """
    chosen = [known_lines.get(line) for line in lines] or known_lines.held(zoo_folder)
    remarks: dict[str, None] = {}
    found: dict[str, Job] = {}
    for line in chosen:
        numbers = sets or line.sets(zoo_folder)[: 1 if quick else None] or [0]
        for number in numbers:
            members = line.members(zoo_folder, number)
            names, unfit = fitting(methods, len(members.experts))
            remarks |= dict.fromkeys([*unfit, *_lacking(members)])
            for job in _jobs(members, names, n, sweep=not quick):
                found.setdefault(job.trial.identity(), job)
    return sorted(found.values(), key=lambda job: job.trial.split == "validation"), list(remarks)


def _lacking(members: Members) -> Iterator[str]:
    """What a line or set lacks, in words."""
    where = f"{members.line} set {members.expert_set}"
    for name, task in known_lines.get(members.line).tasks().items():
        if task.trained and name not in members.experts:
            yield f"{where}: no expert of {name} in the zoo"
    if members.mixture is None:
        yield f"{where}: no mixture in the zoo"


def fitting(names: Sequence[str], experts: int) -> tuple[list[str], list[str]]:
    """The methods that merge that many experts, and a remark on each that doesn't.

    Args:
        names: of methods, each of which must fit; every registered one that fits if empty.
        experts: their number.

    Raises:
        InputError: a method that is named is unknown, or merges another number of experts.
    """
    if names:
        for name in names:
            get(name).check_experts(experts)
        return list(dict.fromkeys(names)), []
    unfit = {
        name: method.exactly for name, method in registered().items() if method.exactly not in (None, experts)
    }
    remarks = [f"{name} merges exactly {number} experts and is left out" for name, number in unfit.items()]
    return [name for name in registered() if name not in unfit], remarks


def merges(job: Job, *, adapters: bool, validation: Mapping[str, int] | None, n: int) -> Iterator[Job]:
    """A method's test as published and its sweep, or its test as it is by default.

    What was published is what records of sweeps are of. A scale that is part of the method isn't swept.

    Args:
        job: the test, without scale and parameters.
        adapters: whether the experts are adapters, on which a method's defaults may depend.
        validation: task → version of what scales are chosen on; None for the defaults, scale included.
        n: validation questions a task.
    """
    method = get(job.trial.model)
    if validation is None:
        parameters = method.resolve(method.validate({}), adapters)
        scale = method.scale(parameters) if method.auto(parameters) is None else AUTO
        settings = {**parameters, **_modifiers(method)}
        yield replace(job, trial=replace(job.trial, parameters=settings, scale=scale, default=True))
        return
    parameters = method.resolve(method.validate(method.published), adapters)
    default = method.scale(parameters)
    job = replace(job, parameters=method.published)
    trial = replace(job.trial, parameters={**parameters, **_modifiers(method)})
    yield replace(job, trial=replace(trial, scale=default, default=True))
    if not method.fixed_scale:
        for scale in SCALES:
            test = replace(trial, scale=scale, default=scale == default)
            yield replace(job, trial=replace(test, split="validation", n=n, tasks=validation), test=test)


def _modifiers(method: Method) -> dict[str, Any]:
    """What a record says of the modifiers around a method."""
    return {"with": [asdict(use) for use in method.modifiers]} if isinstance(method, ModifiedMethod) else {}


def _jobs(members: Members, methods: Sequence[str], n: int, *, sweep: bool) -> Iterator[Job]:
    hashes = known_lines.weights(members)
    base = {BASE: hashes[BASE]}
    trial = Trial(members.line, "base", BASE, None, "test", n, _versions(members.line, "test"), base)
    yield Job(trial, members.base, model=members.base)
    trial = replace(trial, expert_set=members.expert_set)
    for task, folder in members.experts.items():
        own = replace(trial, kind="expert", model=task, weights=base | {task: hashes[task]})
        yield Job(own, members.base, model=folder)
    if members.mixture:
        number = members.expert_set if members.own_mixture else None
        weights = base | {MIXTURE: hashes[MIXTURE]}
        own = replace(trial, kind="mixture", model=MIXTURE, expert_set=number, weights=weights)
        yield Job(own, members.base, model=members.mixture)
    weights = base | {task: hashes[task] for task in members.experts}
    validation = _versions(members.line, "validation") if sweep else None
    for method in methods:
        merged = replace(trial, kind="merge", model=method, weights=weights)
        yield from merges(
            Job(merged, members.base, experts=members.experts),
            adapters=all(map(is_adapter, members.experts.values())),
            validation=validation,
            n=min(VALIDATION, n),
        )


def is_adapter(folder: Path) -> bool:
    """Whether a trained model is an adapter rather than a whole checkpoint."""
    return (folder / "adapter_config.json").is_file()


def _versions(line: str, split: str) -> dict[str, int]:
    """Task → version of what a line is asked; scales aren't chosen on what is held out."""
    asked = known_lines.get(line).tasks()
    return {name: task.version for name, task in asked.items() if task.trained or split == "test"}


def recorded(
    job: Job,
    *,
    merge: Callable[[Job, Path], Mapping[str, float]],
    load: Callable[[Job, Path], Loaded],
    answer: Callable[[Loaded, Trial], Answered],
    out: Path,
    scratch: Path,
    keep: bool,
) -> TrialResult:
    """Does a job and writes its record; whatever goes wrong goes into the record.

    Args:
        job: what to do.
        merge: makes the merged model in a folder; returns what that cost.
        load: the model in a folder, ready to be asked.
        answer: asks the model everything.
        out: folder of the records.
        scratch: folder of merged models while they are asked.
        keep: leave the merged model there, and what was answered.
    """
    shutil.rmtree(job.folder(scratch), ignore_errors=True)  # of a run that was killed
    try:
        result = _done(job, merge, load, answer, scratch, keep)
    except Exception as problem:  # one broken merge mustn't end a run of hours
        result = failed(job, problem)
    if not keep:
        shutil.rmtree(job.folder(scratch), ignore_errors=True)
    trials.write(result, out)
    return result


def _done(
    job: Job,
    merge: Callable[[Job, Path], Mapping[str, float]],
    load: Callable[[Job, Path], Loaded],
    answer: Callable[[Loaded, Trial], Answered],
    scratch: Path,
    keep: bool,
) -> TrialResult:
    cost: dict[str, float] = {}
    merged, folder = None, job.model
    if folder is None:
        folder = job.merged(scratch)
        cost |= merge(job, folder)
        merged = records.weights_hash(folder)
    loaded = load(job, folder)
    started = time.perf_counter()
    answers = answer(loaded, job.trial)
    cost["answer_seconds"] = round(time.perf_counter() - started, 3)
    if keep:
        write_json(job.answers(scratch), {task: list(each) for task, (_, each) in answers.items()})
    return TrialResult(job.trial, {task: scores for task, (scores, _) in answers.items()}, cost, merged)


def failed(job: Job, problem: Exception) -> TrialResult:
    """The result of a job that came to nothing."""
    words = str(problem) if isinstance(problem, OptMergeError) else f"{type(problem).__name__}: {problem}"
    return TrialResult(job.trial, {}, {}, error=words)
