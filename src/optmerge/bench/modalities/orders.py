"""What a run of the modality benchmark is to do: who is asked what, with which of the inputs given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from optmerge.bench import records
from optmerge.bench.modalities import clips
from optmerge.bench.modalities.asking import NEEDS
from optmerge.bench.modalities.exam import Needs
from optmerge.bench.modalities.training import START
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.cells import BASE, EXPERT, Cell
from optmerge.bench.trials.orders import Job, Order
from optmerge.bench.trials.selection import SCALES
from optmerge.errors import CheckpointError
from optmerge.methods import get, registered
from optmerge.omni.compose import NAIVE_MC
from optmerge.omni.damc import DAMC

KIND, LINE = "modalities", "lora"
"""Kind of the records; the one line of models there is."""
TEST, VALIDATION, QUICK = 1000, 150, 100
"""Questions with the same needs: of the test, of the choice of a scale, and of a quick run."""
CLASSICAL = (NAIVE_MC, DAMC)
"""Merges that only compositions have, without a scale."""
QUICK_METHODS = (NAIVE_MC, DAMC, "task_arithmetic", "ties", "optmerge")
NOTHING = "nothing"
INPUTS: tuple[Needs, ...] = tuple(
    given for size in range(len(MODALITIES) + 1) for given in combinations(MODALITIES, size)
)
"""Every subset of what may be given."""


def order(zoo: Path, methods: Sequence[str] = (), *, n: int = TEST, quick: bool = False) -> Order:
    """The jobs of a run.

    Args:
        zoo: with base, start and experts, as training leaves them.
        methods: names; every registered one, NaiveMC and DAMC if empty.
        n: test questions with the same needs.
        quick: leave out the choice of scales on the validation split.

    Raises:
        InputError: a method is unknown, or doesn't take three experts.
        CheckpointError: a model is missing.
    """
    names, remarks = _methods(methods)
    experts: dict[str, Path] = {modality: zoo / modality for modality in MODALITIES}
    known = hashes(zoo)
    cell = Cell(LINE, BASE, None, "test", n, tasks([()]), {BASE: known[BASE]})
    jobs = [Job(cell, zoo / BASE, model=zoo / BASE)]
    for modality in MODALITIES:
        weights = {START: known[START], modality: known[modality]}
        given = tasks([(), (modality,)])
        own = replace(cell, model=EXPERT + modality, tasks=given, weights=weights)
        jobs.append(Job(own, zoo / START, model=zoo / modality))
    cell = replace(cell, weights=known, tasks=tasks(INPUTS))
    for name in names:
        jobs += _merges(Job(replace(cell, model=name), zoo / BASE, experts=experts), sweep=not quick)
    return Order(tuple(sorted(jobs, key=lambda job: job.cell.split == "validation")), tuple(remarks))


def tasks(inputs: Sequence[Needs]) -> Mapping[str, int]:
    """Questions of all needs with each of these inputs given: name → version."""
    return {task(needs, given): clips.VERSION for given in inputs for needs in NEEDS}


def task(needs: Needs, given: Needs) -> str:
    """Questions with these needs asked with these inputs, by name: `audio+video|audio`."""
    return f"{'+'.join(needs)}|{'+'.join(given) or NOTHING}"


def parted(name: str) -> tuple[Needs, Needs]:
    """What `task` made the name of."""
    needs, given = ({"+".join(each): each for each in INPUTS}.get(part, ()) for part in name.split("|"))
    return needs, given


def test_of(job: Job, n: int) -> Job:
    """The test with `n` questions a set of needs of what a validation job tries."""
    return replace(job, cell=replace(job.cell, split="test", n=n, tasks=tasks(INPUTS)))


def _methods(names: Sequence[str]) -> tuple[list[str], list[str]]:
    for name in names:
        if name not in CLASSICAL:
            get(name).check_experts(len(MODALITIES))
    if names:
        return list(dict.fromkeys(names)), []
    exactly = {name: method.exactly for name, method in registered().items()}
    fit = [name for name, number in exactly.items() if number in (None, len(MODALITIES))]
    remarks = [
        f"{name} merges exactly {number} experts and is left out"
        for name, number in exactly.items()
        if name not in fit
    ]
    # The average of adapters' changes is what NaiveMC is.
    return [*(name for name in fit if name != "average"), *CLASSICAL], remarks


def _merges(job: Job, *, sweep: bool) -> Iterator[Job]:
    """A method's test at its default scale, and its sweep where it has a scale to choose."""
    name = job.cell.model
    if name in CLASSICAL:
        yield replace(job, cell=replace(job.cell, scale=1.0, default=True))
        return
    method = get(name)
    parameters = method.resolve(method.validate({}), True)  # the experts are LoRA adapters
    default = method.scale(parameters)
    cell = replace(job.cell, parameters=parameters)
    yield replace(job, cell=replace(cell, scale=default, default=True))
    if sweep and not method.fixed_scale:
        n = min(VALIDATION, cell.n)
        cell = replace(cell, split="validation", n=n, tasks=tasks([MODALITIES]))
        for scale in SCALES:
            yield replace(job, cell=replace(cell, scale=scale, default=scale == default))


def hashes(zoo: Path) -> dict[str, str]:
    """Role → SHA-256 of the weights.

    Raises:
        CheckpointError: a model is missing.
    """
    names = (BASE, START, *MODALITIES)
    for name in names:
        if not any((zoo / name).glob("*.safetensors")):
            raise CheckpointError(
                "a model of the modality benchmark is missing",
                where=zoo / name,
                expected="a checkpoint or an adapter",
                hint=f"make it with `optmerge omni train --out {zoo}`, or correct --zoo",
            )
    return {name: records.weights_hash(zoo / name) for name in names}
