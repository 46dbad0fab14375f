"""What a run is to do: every model of some lines and expert sets, at every scale that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optmerge.bench import lines as known
from optmerge.bench.lines import Members
from optmerge.bench.trials.cells import BASE, EXPERT, MIXTURE, Cell
from optmerge.bench.trials.selection import SCALES
from optmerge.methods import get, registered

TEST, VALIDATION = 1000, 300
"""Questions a task; scales are chosen on fewer."""
QUICK = 200
"""Questions a task of a quick run."""
QUICK_METHODS = ("average", "task_arithmetic", "ties", "tsv", "swudi", "optmerge")


@dataclass(frozen=True)
class Job:
    """A cell and where its model comes from.

    Args:
        cell: what is asked of whom.
        base: folder.
        model: folder of a trained model; None where the experts are merged.
        experts: name → folder of what is merged.
    """

    cell: Cell
    base: Path
    model: Path | None = None
    experts: Mapping[str, Path] | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """Of the merge."""
        experts = [{"model": str(path), "name": name} for name, path in (self.experts or {}).items()]
        method = {"name": self.cell.model} | ({} if self.cell.default else {"scale": self.cell.scale})
        return {"base": str(self.base), "experts": experts, "method": method}


@dataclass(frozen=True)
class Order:
    """What a run is to do.

    Args:
        jobs: known beforehand, in the order in which results are wanted.
        remarks: what is left out, in words.
    """

    jobs: tuple[Job, ...]
    remarks: tuple[str, ...]


def order(
    zoo_folder: Path,
    lines: Sequence[str],
    sets: Sequence[int],
    methods: Sequence[str],
    *,
    n: int = TEST,
    quick: bool = False,
) -> Order:
    """The jobs of a run.

    Args:
        zoo_folder: with the trained models.
        lines: of models; all that the zoo holds if empty.
        sets: expert sets; all that the zoo holds of a line if empty, or the first where it is to be quick.
        methods: names; every registered one if empty.
        n: test questions a task.
        quick: leave out the choice of scales on the validation split.

    Raises:
        InputError: a line or method is unknown, or a method doesn't take so many experts.
        CheckpointError: a model is missing.
    """
    chosen = [known.get(line) for line in lines] or known.held(zoo_folder)
    remarks: dict[str, None] = {}
    jobs: dict[str, Job] = {}
    for line in chosen:
        numbers = sets or line.sets(zoo_folder)[: 1 if quick else None] or [0]
        for number in numbers:
            found = line.members(zoo_folder, number)
            names, unfit = _methods(methods, len(found.experts))
            remarks |= dict.fromkeys([*unfit, *_lacking(found)])
            for job in _jobs(found, names, n, sweep=not quick):
                jobs.setdefault(job.cell.identity(), job)
    ranked = sorted(jobs.values(), key=lambda job: job.cell.split == "validation")
    return Order(tuple(ranked), tuple(remarks))


def test_of(job: Job, n: int) -> Job:
    """The test with `n` questions a task of what a validation job tries."""
    return replace(job, cell=replace(job.cell, split="test", n=n, tasks=_versions(job.cell.line, "test")))


def _lacking(found: Members) -> Iterator[str]:
    """What a line or set lacks, in words."""
    where = f"{found.line} set {found.expert_set}"
    for name, task in known.get(found.line).tasks().items():
        if task.trained and name not in found.experts:
            yield f"{where}: no expert of {name} in the zoo"
    if found.mixture is None:
        yield f"{where}: no mixture in the zoo"


def _methods(names: Sequence[str], experts: int) -> tuple[list[str], list[str]]:
    """The methods that take so many experts, and a remark on each that doesn't."""
    if names:
        for name in names:
            get(name).check_experts(experts)
        return list(dict.fromkeys(names)), []
    unfit = {
        name: method.exactly for name, method in registered().items() if method.exactly not in (None, experts)
    }
    remarks = [f"{name} merges exactly {number} experts and is left out" for name, number in unfit.items()]
    return [name for name in registered() if name not in unfit], remarks


def _jobs(found: Members, methods: Sequence[str], n: int, *, sweep: bool) -> Iterator[Job]:
    hashes = known.weights(found)
    base = {BASE: hashes[BASE]}
    cell = Cell(found.line, BASE, None, "test", n, _versions(found.line, "test"), base)
    yield Job(cell, found.base, model=found.base)
    cell = replace(cell, expert_set=found.expert_set)
    for task, folder in found.experts.items():
        own = replace(cell, model=EXPERT + task, weights=base | {task: hashes[task]})
        yield Job(own, found.base, model=folder)
    if found.mixture:
        number = found.expert_set if found.own_mixture else None
        own = replace(cell, model=MIXTURE, expert_set=number, weights=base | {MIXTURE: hashes[MIXTURE]})
        yield Job(own, found.base, model=found.mixture)
    merged = replace(cell, weights=base | {task: hashes[task] for task in found.experts})
    for method in methods:
        yield from _merges(Job(replace(merged, model=method), found.base, experts=found.experts), sweep=sweep)


def _merges(job: Job, *, sweep: bool) -> Iterator[Job]:
    """A method's test at its default scale, and its sweep unless its scale is part of it."""
    import optmerge

    use = optmerge.plan(replace(job, cell=replace(job.cell, default=True)).recipe).methods[0]
    assert use is not None  # the recipe's own method always is one
    job = replace(job, cell=replace(job.cell, parameters=dict(use.parameters)))
    yield replace(job, cell=replace(job.cell, scale=use.scale, default=True))
    if sweep and not get(use.name).fixed_scale:
        asked = _versions(job.cell.line, "validation")
        cell = replace(job.cell, split="validation", n=min(VALIDATION, job.cell.n), tasks=asked)
        for scale in SCALES:
            yield replace(job, cell=replace(cell, scale=scale, default=scale == use.scale))


def _versions(line: str, split: str) -> dict[str, int]:
    """Task → version of what a line is asked; scales aren't chosen on what is held out."""
    asked = known.get(line).tasks()
    return {name: task.version for name, task in asked.items() if task.trained or split == "test"}
